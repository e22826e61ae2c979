"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const CHUNK = 60;
  const LABEL_PIXELS = 12000; // of the screen that each label needs
  const images = data.images.map(([split, name, height, width, source, reasons, rows, grid, leftOut]) => ({
    split, name, height, width, source, reasons, grid, leftOut,
    objects: rows.map(([label, x, y, w, h, kinds, outline]) => ({ label, x, y, w, h, kinds, outline })),
  }));

  // Texts enter the page as text alone, whatever class and file names hold.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (key === "style") for (const [name, set] of Object.entries(value)) made.style.setProperty(name, set);
      else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child != null));
    return made;
  }
  function shape(tag, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }
  const many = (count, word, plural = `${word}s`) => `${count.toLocaleString("en")} ${count === 1 ? word : plural}`;
  const mask = (image, d, label) => shape("path", { d, class: "m", fill: data.colors[label], stroke: data.colors[label], transform: `scale(${image.grid})` });
  const path = (o) => `M${o.x} ${o.y}h${o.w}v${o.h}h${-o.w}z`;
  const kindsOf = (o) => data.kinds.filter((_, bit) => o.kinds & (1 << bit));

  const isUnusual = (o) => o.kinds && kindsOf(o).every(([, , rank]) => rank === "unusual");

  // ---- tiles
  const filters = { kind: null, label: "", split: "", text: "" };
  let shown = [];
  let drawn = 0;

  function drawing(image) {
    const svg = shape("svg", { viewBox: `0 0 ${image.width} ${image.height}`, "aria-hidden": "true" });
    svg.append(shape("image", { href: image.source, width: image.width, height: image.height, preserveAspectRatio: "none" }));
    // One path for all boxes of a class: hundreds of objects stay cheap.
    const boxes = new Map(), outlines = new Map();
    let suspicious = "", unusual = "";
    for (const o of image.objects) {
      boxes.set(o.label, (boxes.get(o.label) ?? "") + path(o));
      if (o.outline) outlines.set(o.label, (outlines.get(o.label) ?? "") + o.outline);
      if (isUnusual(o)) unusual += path(o);
      else if (o.kinds) suspicious += path(o);
    }
    for (const [label, d] of outlines) svg.append(mask(image, d, label));
    svg.append(shape("path", { d: [...boxes.values()].join(""), class: "u" }));
    for (const [label, d] of boxes) svg.append(shape("path", { d, class: "o", stroke: data.colors[label] }));
    if (unusual) svg.append(shape("path", { d: unusual, class: "s unusual" }));
    if (suspicious) svg.append(shape("path", { d: suspicious, class: "s" }));
    return svg;
  }

  function lost(image) {
    const reason = image.reasons.find(([kind]) => kind === 0);
    return element("span", { class: "lost" }, reason ? reason[1] : "");
  }

  function classChips(image) {
    const counts = new Map();
    for (const o of image.objects) counts.set(o.label, (counts.get(o.label) ?? 0) + 1);
    const sorted = [...counts].sort((a, b) => b[1] - a[1]);
    const chips = sorted.slice(0, 3).map(([label, count]) =>
      element("span", { class: "chip class", style: { "--c": data.colors[label] } }, `${data.classes[label]} ${count}`));
    if (sorted.length > 3) chips.push(element("span", {}, `+ ${many(sorted.length - 3, "class", "classes")}`));
    return chips;
  }

  function reasonChip([kind, text]) {
    const [name, meaning, rank] = data.kinds[kind];
    const count = /^(\d+) objects?$/.exec(text);
    // What a reader said is worth reading; the other kinds say all by their names.
    const said = kind === 1 || kind === 2;
    return element("span", { class: `chip ${rank}${said ? " said" : ""}`, title: text ? `${text}. ${meaning}` : meaning },
      element("span", {}, said ? text : count ? `${count[1]} ${name}` : name));
  }

  function tile(image, place) {
    return element("button", { class: "tile", type: "button", onclick: () => open(place), "aria-label": `${image.name}, ${many(image.objects.length, "object")}` },
      image.source ? drawing(image) : lost(image),
      element("span", { class: "words" },
        element("span", { class: "title" }, element("span", { title: image.name }, image.name), element("span", {}, data.splits[image.split])),
        element("span", { class: "chips" }, ...image.reasons.map(reasonChip)),
        element("span", { class: "chips" }, ...classChips(image))));
  }

  function extend() {
    at("gallery").append(...shown.slice(drawn, drawn + CHUNK).map((image, place) => tile(image, drawn + place)));
    drawn = Math.min(shown.length, drawn + CHUNK);
  }

  function passes(image) {
    if (filters.kind !== null && !image.reasons.some(([kind]) => kind === filters.kind)) return false;
    if (filters.label !== "" && !image.objects.some((o) => o.label === +filters.label)) return false;
    if (filters.split !== "" && image.split !== +filters.split) return false;
    return !filters.text || image.name.toLowerCase().includes(filters.text);
  }

  function refresh() {
    shown = images.filter(passes);
    drawn = 0;
    at("gallery").replaceChildren();
    extend();
    at("count").textContent = shown.length === images.length ? many(images.length, "image") : `${shown.length} of ${many(images.length, "image")}`;
    for (const button of at("kinds").children) button.setAttribute("aria-pressed", String(button.dataset.kind === String(filters.kind)));
    at("class").value = filters.label;
  }

  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && drawn < shown.length) extend();
  }, { rootMargin: "1200px" }).observe(at("more"));

  function chooseKind(kind) {
    filters.kind = kind;
    refresh();
  }
  at("kinds").append(element("button", { type: "button", class: "all", "data-kind": "null", onclick: () => chooseKind(null) }, "all"));
  data.kinds.forEach(([name, meaning, rank, count, objects], kind) => {
    if (!count) return;
    at("kinds").append(element("button", { type: "button", class: rank, "data-kind": kind, title: `${meaning} ${many(count, "image")}${objects ? `, ${many(objects, "object")}` : ""}.`,
      onclick: () => chooseKind(filters.kind === kind ? null : kind) }, name, element("b", {}, count.toLocaleString("en"))));
  });
  const byName = data.classes.map((name, label) => [name, label]).sort((a, b) => a[0].localeCompare(b[0]));
  at("class").append(...byName.map(([name, label]) => element("option", { value: label }, name)));
  at("split").append(...data.splits.map((name, split) => element("option", { value: split }, name)));
  at("class").addEventListener("change", (event) => { filters.label = event.target.value; refresh(); });
  at("split").addEventListener("change", (event) => { filters.split = event.target.value; refresh(); });
  at("file").addEventListener("input", (event) => { filters.text = event.target.value.toLowerCase(); refresh(); });
  at("size").addEventListener("input", (event) => document.documentElement.style.setProperty("--tile", `${event.target.value}px`));
  for (const name of ["boxes", "masks"]) at(name).addEventListener("change", () => show(name, at(name).checked));
  function show(name, on) {
    at(name).checked = on;
    document.body.classList.toggle(`no-${name}`, !on);
  }
  if (!images.some((image) => image.objects.some((o) => o.outline))) at("masks").parentElement.hidden = true;

  // ---- viewer
  let current = 0;
  let view = null;
  let groups = [];

  function open(place) {
    current = place;
    if (!at("viewer").open) at("viewer").showModal();
    load();
    at("next").focus();
  }

  function load() {
    const image = shown[current];
    at("place").textContent = `${current + 1} of ${shown.length}`;
    at("previous").disabled = current === 0;
    at("next").disabled = current === shown.length - 1;
    at("name").textContent = image.name;
    at("about").textContent = `${data.splits[image.split]} · ${image.width} × ${image.height} · ${many(image.objects.length, "object")}`
      + (image.leftOut ? ` drawn, ${image.leftOut} more left out for size` : "");
    at("reasons").replaceChildren(...image.reasons.map(([kind, text]) => {
      const [name, meaning, rank] = data.kinds[kind];
      return element("li", { class: rank }, element("span", {}, element("b", {}, name), ` ${text ? `${text}. ` : ""}${meaning}`));
    }));
    const order = image.objects.map((o, place) => [o, place]).sort((a, b) => (b[0].kinds > 0) - (a[0].kinds > 0) || a[0].label - b[0].label);
    at("objects").replaceChildren(...order.map(([o, place]) => {
      const kinds = kindsOf(o).map(([name]) => name).join(", ");
      return element("li", {}, element("button", { type: "button", onclick: () => zoomTo(o), onmouseenter: () => point(place), onmouseleave: () => point(null), onfocus: () => point(place), onblur: () => point(null) },
        element("i", { class: "swatch", style: { background: data.colors[o.label] } }),
        element("span", { class: "what" }, data.classes[o.label], kinds ? element("em", {}, ` ${kinds}`) : null),
        element("span", { class: "box" }, [o.x, o.y, o.w, o.h].map((value) => (Math.abs(value) < 2 ? value : Math.round(value))).join(" "))));
    }));
    draw(image);
    whole();
  }

  function draw(image) {
    const stage = at("stage");
    stage.replaceChildren();
    if (image.source) stage.append(shape("image", { class: Math.max(image.width, image.height) <= 320 ? "pixels" : "", href: image.source, width: image.width, height: image.height, preserveAspectRatio: "none" }));
    stage.append(shape("path", { d: `M0 0h${image.width}v${image.height}h${-image.width}z`, class: "edge" }));
    groups = image.objects.map((o, place) => {
      const color = data.colors[o.label];
      const group = shape("g", {});
      if (o.outline) group.append(mask(image, o.outline, o.label));
      const hit = shape("path", { d: path(o), class: "hit" });
      const title = shape("title", {});
      title.textContent = [data.classes[o.label], ...kindsOf(o).map(([name]) => name)].join(" · ");
      hit.append(title);
      group.append(hit, shape("path", { d: path(o), class: "u" }), shape("path", { d: path(o), class: "o", stroke: color }));
      if (o.kinds) group.append(shape("path", { d: path(o), class: isUnusual(o) ? "s unusual" : "s" }));
      group.addEventListener("click", () => zoomTo(o));
      group.addEventListener("mouseenter", () => point(place));
      group.addEventListener("mouseleave", () => point(null));
      return group;
    });
    // Large objects first, so that the small ones on them can be pointed at.
    const order = image.objects.map((o, place) => [o.w * o.h, place]).sort((a, b) => b[0] - a[0]);
    stage.append(...order.map(([, place]) => groups[place]));
  }

  function point(place) {
    groups.forEach((group, other) => group.classList.toggle("dim", place !== null && other !== place));
    if (place !== null) label([place]);
    else label(groups.map((_, other) => other));
  }

  function look(x, y, width, height) {
    view = { x, y, width, height };
    at("stage").setAttribute("viewBox", `${x} ${y} ${width} ${height}`);
    label(groups.map((_, place) => place));
  }

  // Labels have one size on the screen, whatever the zoom.
  function label(places) {
    const stage = at("stage");
    stage.querySelectorAll(".label").forEach((old) => old.remove());
    const bounds = stage.getBoundingClientRect();
    if (places.length > 1 && (data.classes.length < 2 || places.length > bounds.width * bounds.height / LABEL_PIXELS)) return;
    const unit = Math.max(view.width / bounds.width, view.height / bounds.height);
    for (const place of places) {
      const o = shown[current].objects[place];
      const text = shape("text", { x: o.x, y: Math.max(o.y - 4 * unit, view.y + 13 * unit), class: "label", "font-size": 12 * unit, fill: "#fff", stroke: "#000", "stroke-width": 3 * unit, "paint-order": "stroke", "stroke-linejoin": "round" });
      text.textContent = data.classes[o.label];
      stage.append(text);
    }
  }

  function whole() {
    const image = shown[current];
    let [left, top, right, bottom] = [0, 0, image.width, image.height];
    for (const o of image.objects) {
      // Boxes that leave the image are seen, up to its own size on each side.
      left = Math.min(left, Math.max(o.x, -image.width)); top = Math.min(top, Math.max(o.y, -image.height));
      right = Math.max(right, Math.min(o.x + o.w, 2 * image.width)); bottom = Math.max(bottom, Math.min(o.y + o.h, 2 * image.height));
    }
    const margin = 0.03 * Math.max(right - left, bottom - top);
    look(left - margin, top - margin, right - left + 2 * margin, bottom - top + 2 * margin);
  }

  function zoomTo(o) {
    const image = shown[current];
    const side = Math.max(2.2 * Math.max(o.w, o.h), 0.04 * Math.max(image.width, image.height), 8);
    look(o.x + o.w / 2 - side / 2, o.y + o.h / 2 - side / 2, side, side);
  }

  function go(step) {
    const place = current + step;
    if (place >= 0 && place < shown.length) { current = place; load(); }
  }
  at("stage").addEventListener("wheel", (event) => {
    event.preventDefault();
    const bounds = at("stage").getBoundingClientRect();
    const unit = Math.max(view.width / bounds.width, view.height / bounds.height);
    const x = view.x + view.width / 2 + (event.clientX - bounds.left - bounds.width / 2) * unit;
    const y = view.y + view.height / 2 + (event.clientY - bounds.top - bounds.height / 2) * unit;
    const scale = event.deltaY > 0 ? 1.25 : 0.8;
    look(x + (view.x - x) * scale, y + (view.y - y) * scale, view.width * scale, view.height * scale);
  }, { passive: false });
  at("previous").addEventListener("click", () => go(-1));
  at("next").addEventListener("click", () => go(1));
  at("whole").addEventListener("click", whole);
  at("close").addEventListener("click", () => at("viewer").close());
  at("viewer").addEventListener("keydown", (event) => {
    const actions = { ArrowLeft: () => go(-1), ArrowRight: () => go(1), 0: whole, b: () => show("boxes", !at("boxes").checked), m: () => show("masks", !at("masks").checked) };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  });

  // ---- classes
  const columns = [["class", null]];
  data.splits.forEach((name, split) => columns.push([`${name} objects`, 2 * split], [`${name} images`, 2 * split + 1]));
  const first = 2 * data.splits.length;
  data.quantiles.forEach((q, place) => columns.push([q === 0.5 ? "median size" : `${100 * q} %`, first + place]));
  const order = { column: 1, ascending: false };
  const sizes = data.table.flatMap((row) => row.slice(first));
  const [least, most] = [Math.log(Math.max(1, Math.min(...sizes))), Math.log(Math.max(2, ...sizes))];

  function plot(quantiles) {
    if (!quantiles.length) return "";
    const svg = shape("svg", { class: "plot", viewBox: "0 0 150 16", "aria-hidden": "true" });
    const [a, b, c, d, e] = quantiles.map((value) => 3 + 144 * (Math.log(Math.max(1, value)) - least) / Math.max(1e-9, most - least));
    svg.append(shape("path", { d: `M${a} 8H${e}M${a} 5v6M${e} 5v6` }), shape("rect", { x: b, y: 3, width: Math.max(2, d - b), height: 10, rx: 2 }), shape("path", { d: `M${c} 3v10`, class: "middle" }));
    return svg;
  }

  function sorted() {
    const text = at("find").value.toLowerCase();
    const labels = data.classes.map((_, label) => label).filter((label) => data.classes[label].toLowerCase().includes(text));
    const place = columns[order.column][1];
    const value = (label) => (place === null ? data.classes[label] : data.table[label][place] ?? -1);
    labels.sort((a, b) => (place === null ? value(a).localeCompare(value(b)) : value(a) - value(b)) || a - b);
    return order.ascending ? labels : labels.reverse();
  }

  function table() {
    const head = columns.map(([name], column) => element("th", { class: column ? "number" : "", scope: "col", "aria-sort": column === order.column ? (order.ascending ? "ascending" : "descending") : null },
      element("button", { type: "button", onclick: () => { order.ascending = column === order.column ? !order.ascending : column === 0; order.column = column; table(); } }, name)));
    head.push(element("th", { scope: "col" }, "5 – 95 %, logarithmic"));
    const rows = sorted().map((label) => element("tr", {},
      element("th", { scope: "row" }, element("button", { type: "button", title: data.classes[label], onclick: () => { filters.label = String(label); refresh(); at("images").scrollIntoView(); } },
        element("i", { class: "swatch", style: { background: data.colors[label] } }), data.classes[label])),
      ...columns.slice(1).map(([, place]) => {
        const value = data.table[label][place];
        return element("td", { class: `number${place < first && !value ? " zero" : ""}` }, value === undefined ? "–" : place < first ? value.toLocaleString("en") : value.toFixed(value < 100 ? 1 : 0));
      }),
      element("td", {}, plot(data.table[label].slice(first)))));
    at("table").replaceChildren(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  }
  at("find").addEventListener("input", table);

  function csv() {
    const quote = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
    const rows = sorted().map((label) => columns.map(([, place]) => (place === null ? data.classes[label] : data.table[label][place] ?? "")));
    return [columns.map(([name]) => name), ...rows].map((row) => row.map(quote).join(",")).join("\n");
  }
  async function copy() {
    const text = csv();
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = element("textarea", { readonly: true });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    at("copied").textContent = "copied";
    setTimeout(() => { at("copied").textContent = ""; }, 1500);
  }
  at("copy").addEventListener("click", copy);

  table();
  refresh();
})();
