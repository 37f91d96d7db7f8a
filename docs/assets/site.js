// Draw formulas, and let wide formulas and tables fit the screen.

const SMALLEST = 0.55; // of the text's size: smaller formulas cannot be read

function drawFormulas() {
  for (const place of document.querySelectorAll(".arithmatex")) {
    const source = place.textContent;
    const display = source.startsWith("\\[");
    katex.render(source.slice(2, -2), place, { displayMode: display, throwOnError: false });
    place.classList.toggle("display", display);
  }
}

const tables = () => document.querySelectorAll(".md-typeset table:not([class])");

// A cell knows its column's name, for the cards; a column of numbers is set to the right; names and numbers stay whole.
function describeCells() {
  for (const table of tables()) {
    const heads = [...table.querySelectorAll("thead th")];
    const rows = [...table.querySelectorAll("tbody tr")];
    const isNumber = (cell) => cell && /^[-\u2212]?\d[\d.,]*( ± [\d.,]+)?( %)?$/.test(cell.textContent.trim());
    heads.forEach((head, column) => {
      if (rows.filter((row) => isNumber(row.cells[column])).length > rows.length / 2) {
        [head, ...rows.map((row) => row.cells[column])].forEach((cell) => cell.classList.add("number"));
      }
    });
    for (const row of rows) {
      [...row.cells].forEach((cell, column) => {
        cell.dataset.head = heads[column] ? heads[column].textContent : "";
        if (/^\S{1,29}$/.test(cell.textContent.trim())) cell.classList.add("name");
        // The words of a card's cell are one thing beside its name.
        const inner = document.createElement("span");
        inner.append(...cell.childNodes);
        if (inner.childNodes.length) cell.append(inner);
      });
    }
  }
}

// What is wider than its column: a formula is drawn smaller, a table becomes a card for each row.
function fit() {
  for (const formula of document.querySelectorAll(".arithmatex.display")) {
    formula.style.fontSize = "";
    const share = formula.clientWidth / formula.scrollWidth;
    if (share < 1) formula.style.fontSize = `${Math.max(SMALLEST, share * 0.97)}em`;
  }
  for (const table of tables()) {
    delete table.dataset.cards;
    const frame = table.closest(".md-typeset__scrollwrap") || table.parentElement;
    if (frame.scrollWidth > frame.clientWidth || table.offsetWidth > frame.clientWidth) table.dataset.cards = "";
  }
}

document$.subscribe(() => {
  drawFormulas();
  describeCells();
  fit();
  document.fonts.ready.then(fit);
  window.addEventListener("resize", fit);
});
