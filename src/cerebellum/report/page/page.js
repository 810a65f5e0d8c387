"use strict";
// Charts from the specifications in the page, and tables that are sorted and filtered. Nothing is fetched.
(function () {
  document.documentElement.classList.add("js");
  const STEP = 200; // rows of a table that are shown at a time

  function chart(holder) {
    const spec = JSON.parse(document.getElementById(holder.dataset.spec).textContent);
    return window.vegaEmbed(holder, spec, {
      ast: true, // expressions are interpreted: the page's policy forbids making code of text
      actions: false, renderer: "svg", mode: "vega-lite", logLevel: 1, tooltip: { theme: "page", offsetX: 12, offsetY: 12 },
    }).then(() => { holder.dataset.drawn = "yes"; }, (error) => {
      holder.dataset.drawn = "no";
      holder.textContent = "This chart could not be drawn: " + error.message + " The table below has its figures.";
    });
  }

  function charts() {
    const waiting = Array.from(document.querySelectorAll("[data-spec]"));
    (function next() {
      const holder = waiting.shift();
      if (holder) chart(holder).then(() => setTimeout(next, 0));
      else document.documentElement.dataset.ready = "yes";
    })();
  }

  function table(box) {
    const head = Array.from(box.querySelectorAll("th")), body = box.querySelector("tbody");
    const input = box.querySelector("input"), count = box.querySelector("output"), more = box.querySelector(".more");
    const rows = Array.from(body.rows, (row) => ({
      row, best: row.className, words: null,
      cells: Array.from(row.cells, (cell) => [cell.textContent, cell.dataset.v === undefined ? null : Number(cell.dataset.v)]),
    }));
    const rest = box.querySelector("script");
    if (rest) for (const cells of JSON.parse(rest.textContent)) rows.push({ row: null, best: "", words: null, cells });
    let order = rows, shown = STEP;

    function made(entry) {
      if (entry.row) return entry.row;
      entry.row = document.createElement("tr");
      entry.cells.forEach(([text], i) => {
        const cell = entry.row.insertCell();
        cell.textContent = text;
        cell.className = head[i].className;
      });
      return entry.row;
    }

    function wanted() {
      const asked = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      if (!asked.length) return order;
      return order.filter((entry) => {
        entry.words = entry.words || entry.cells.map((cell) => cell[0]).join("\n").toLowerCase();
        return asked.every((word) => entry.words.includes(word));
      });
    }

    function draw() {
      const list = wanted();
      body.replaceChildren(...list.slice(0, shown).map(made));
      count.textContent = list.length === rows.length ? rows.length + " rows" : list.length + " of " + rows.length + " rows";
      more.hidden = list.length <= shown;
      more.textContent = "show " + Math.min(list.length - shown, 5 * STEP) + " more";
    }

    function compare(i, sign) {
      return (a, b) => {
        const [ta, va] = a.cells[i], [tb, vb] = b.cells[i];
        const numbers = head[i].className === "n";
        if (numbers && (va === null || vb === null)) return (va === null) - (vb === null); // what isn't known comes last
        return sign * (numbers ? va - vb : ta.localeCompare(tb, "en", { numeric: true }));
      };
    }

    head.forEach((cell, i) => cell.querySelector("button").addEventListener("click", () => {
      const ascending = cell.getAttribute("aria-sort") !== "ascending";
      head.forEach((other) => other.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      order = rows.slice().sort(compare(i, ascending ? 1 : -1));
      draw();
    }));
    input.addEventListener("input", () => { shown = STEP; draw(); });
    more.addEventListener("click", () => { shown += 5 * STEP; draw(); });
    draw();
  }

  // A page of a run that goes on: it says so when nothing was heard for long.
  function live(note) {
    const silent = Date.now() / 1000 - Number(note.dataset.written);
    if (silent > Number(note.dataset.patience)) {
      note.textContent = "Nothing was heard for " + Math.round(silent / 60) + " minutes: the run may have ended. Its command goes on from here.";
    }
  }

  // On paper nothing is folded.
  const folded = () => Array.from(document.querySelectorAll("details:not([open])"));
  let opened = [];
  window.addEventListener("beforeprint", () => { opened = folded(); opened.forEach((one) => { one.open = true; }); });
  window.addEventListener("afterprint", () => opened.forEach((one) => { one.open = false; }));

  document.querySelectorAll(".sortable").forEach(table);
  document.querySelectorAll("[data-written]").forEach(live);
  if (window.vegaEmbed) charts();
  else document.documentElement.dataset.ready = "yes";
})();
