"use strict";

// The number that a cell begins with, as in "0.475 ± 0.004* / 9.726", or NaN.
function leading(text) {
  return parseFloat(text);
}

function compare(one, other) {
  const [a, b] = [leading(one), leading(other)];
  if (isNaN(a) && isNaN(b)) return one.localeCompare(other, "en", { numeric: true });
  if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
  return a - b;
}

function sort(table, heading, place) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const text = (row) => row.cells[place].textContent.trim();
  const rows = [...table.tBodies[0].rows].sort((a, b) => compare(text(a), text(b)));
  if (descending) rows.reverse();
  table.tBodies[0].append(...rows);
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(table, heading, place));
    heading.replaceChildren(button);
  });
}

function makeChooser(strip) {
  const [slider, output] = [strip.querySelector("input"), strip.querySelector("output")];
  const columns = [...strip.querySelectorAll(".column")];
  const show = () => {
    columns.forEach((column, place) => (column.hidden = place !== Number(slider.value)));
    output.textContent = columns[slider.value].dataset.name;
    slider.setAttribute("aria-valuetext", output.textContent);
  };
  slider.addEventListener("input", show);
  show();
}

document.documentElement.classList.add("script");
document.querySelectorAll("table.numbers").forEach(makeSortable);
document.querySelectorAll(".strip").forEach(makeChooser);
