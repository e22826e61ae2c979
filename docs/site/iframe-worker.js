// Browsers start no worker for a page that was opened as a file. The search needs one, so there it runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      };
      const script = inside.document.createElement("script");
      script.src = url;
      this.ready = new Promise((resolve, reject) => {
        script.onload = resolve;
        script.onerror = reject;
      });
      inside.document.head.append(script);
    }

    postMessage(data) {
      const send = () => this.frame.contentWindow?.dispatchEvent(new MessageEvent("message", { data }));
      this.ready.then(send, () => this.onerror?.(new ErrorEvent("error")));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
