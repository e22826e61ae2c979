"use strict";
(() => {
  // What a cell holds: the number behind a rounded text, or the text.
  const content = (cell) => cell.dataset.value ?? cell.textContent;
  const number = (cell) => Number(content(cell) === "–" || !content(cell).trim() ? NaN : content(cell));

  function sort(table, place) {
    const head = table.tHead.rows[0].cells[place];
    const rows = [...table.tBodies[0].rows];
    // Names of classes may be numbers in part: a column is one of numbers where all that it has are numbers.
    const known = rows.filter((row) => content(row.cells[place]) !== "–");
    const isNumber = known.length > 0 && known.every((row) => !Number.isNaN(number(row.cells[place])));
    // The first click shows what is largest, of names the first.
    const isDown = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : isNumber;
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const sign = isDown ? -1 : 1;
    const compare = (a, b) => {
      if (!isNumber) return sign * content(a).localeCompare(content(b), "en", { numeric: true });
      const [x, y] = [number(a), number(b)];
      return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : sign * (x - y);
    };
    rows.sort((a, b) => compare(a.cells[place], b.cells[place]));
    table.tBodies[0].append(...rows);
  }

  function csv(table) {
    const quote = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    return [...table.rows].map((row) => [...row.cells].map((cell) => quote(content(cell) === "–" ? "" : content(cell))).join(",")).join("\n");
  }

  async function copy(table, said) {
    try {
      await navigator.clipboard.writeText(csv(table));
    } catch {
      const area = document.createElement("textarea");
      area.readOnly = true;
      area.value = csv(table);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    said.textContent = "copied";
    setTimeout(() => { said.textContent = ""; }, 1500);
  }

  for (const table of document.querySelectorAll("table")) {
    [...table.tHead.rows[0].cells].forEach((head, place) =>
      head.querySelector("button").addEventListener("click", () => sort(table, place)));
    const tools = table.parentElement.nextElementSibling;
    tools.querySelector(".copy").addEventListener("click", () => copy(table, tools.querySelector(".copied")));
  }
})();
