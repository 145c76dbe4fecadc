"use strict";
// Values of the figures: a slider over x with a table, and what is under the pointer.
// The page is complete without this.
const make = (tag, values = {}) => Object.assign(document.createElement(tag), values);
const format = (value) => {
  if (value === null || value === undefined) return "–";
  const text = value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : value.toFixed(3);
  return text.replace(/^0\./, ".");
};
// Between two values a curve has the last one.
const lookUp = (y, index) => y.slice(0, index + 1).findLast((value) => value !== null);

const tip = make("div", { className: "tip", hidden: true });
tip.setAttribute("aria-hidden", "true"); // the table says the same
document.body.append(tip);
const showTip = (event, text) => {
  tip.textContent = text;
  tip.hidden = false;
  const left = event.clientX + 14 + tip.offsetWidth > innerWidth;
  tip.style.left = `${Math.max(0, event.clientX + (left ? -14 - tip.offsetWidth : 14))}px`;
  tip.style.top = `${Math.max(0, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight))}px`;
};

const addSlider = (label, texts, chosen, onChange) => {
  const output = make("output");
  const slider = make("input", { type: "range", min: 0, max: texts.length - 1, value: chosen });
  const place = make("div", { className: "chosen" });
  const line = make("label");
  line.append(`${label} `, output, slider);
  place.append(line);
  const change = () => {
    output.textContent = texts[slider.value];
    slider.setAttribute("aria-valuetext", texts[slider.value]);
    onChange(Number(slider.value));
  };
  slider.addEventListener("input", change);
  const choose = (index) => {
    slider.value = index;
    change();
  };
  return { place, choose, start: change };
};

const addChart = (svg, chart) => {
  const cursors = chart.panels.map(({ box: [, top, , height] }) => {
    const cursor = document.createElementNS(svg.namespaceURI, "path");
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("d", `M0 ${top}v${height}`);
    svg.append(cursor);
    return cursor;
  });
  const table = make("table");
  const title = `Values at one ${chart.label || "x"}`;
  table.append(make("caption", { textContent: title }));
  const head = table.createTHead().insertRow();
  head.append(make("th", { textContent: "curve", scope: "col" }));
  for (const { title } of chart.panels) {
    head.append(make("th", { textContent: title || "value", scope: "col" }));
  }
  const body = table.createTBody();
  const labels = [...new Set(chart.panels.flatMap((panel) => panel.curves.map((c) => c.label)))];
  const cells = labels.flatMap((label) => {
    const row = body.insertRow();
    row.append(make("th", { textContent: label, scope: "row" }));
    return chart.panels.map(({ curves }) => {
      const curve = curves.find((one) => one.label === label);
      return [Object.assign(row.insertCell(), { className: "short" }), curve ? curve.y : []];
    });
  });
  const texts = chart.values.map(String);
  const slider = addSlider(chart.label, texts, texts.length - 1, (index) => {
    for (const [cell, y] of cells) cell.textContent = format(lookUp(y, index));
    chart.panels.forEach(({ box: [left, , width], at }, k) => {
      cursors[k].setAttribute("transform", `translate(${left + at[index] * width} 0)`);
    });
  });
  const scroll = make("div", { className: "scroll", tabIndex: 0 });
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", title);
  scroll.append(table);
  slider.place.append(scroll);
  slider.start();
  return {
    place: slider.place,
    point(event, x, y) {
      const panel = chart.panels.find(({ box }) => isInside(box, x, y));
      if (!panel) return false;
      const share = (x - panel.box[0]) / panel.box[2];
      const distances = panel.at.map((one) => Math.abs(one - share));
      const index = distances.indexOf(Math.min(...distances));
      slider.choose(index);
      const lines = panel.curves.map((one) => `${one.label}: ${format(lookUp(one.y, index))}`);
      showTip(event, [`${chart.label} ${texts[index]}`, ...lines].join("\n"));
      return true;
    },
  };
};

const isInside = ([left, top, width, height], x, y) =>
  x >= left && x <= left + width && y >= top && y <= top + height;

const pointAtMap = ({ box, rows, x: across, y: down }, event, x, y) => {
  if (!isInside(box, x, y)) return false;
  const find = (share, count) => Math.min(count - 1, Math.floor(share * count));
  const row = find((y - box[1]) / box[3], rows.length);
  const column = find((x - box[0]) / box[2], rows[0].length);
  showTip(event, `${across}: ${column}\n${down}: ${row}\n${format(rows[row][column])}`);
  return true;
};

for (const figure of document.querySelectorAll("[data-values]")) {
  const svg = figure.querySelector("svg");
  const { charts, maps } = JSON.parse(figure.dataset.values);
  const added = charts.map((chart) => addChart(svg, chart));
  figure.closest("p").after(...added.map((one) => one.place));
  const targets = [
    ...added.map((one) => one.point),
    ...maps.map((map) => (...where) => pointAtMap(map, ...where)),
  ];
  svg.addEventListener("pointermove", (event) => {
    const { x, y } = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(svg.getScreenCTM().inverse());
    tip.hidden = !targets.some((point) => point(event, x, y));
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
}

// Of figures that differ in ε, one at a time; printed, all of them.
for (const section of document.querySelectorAll("section")) {
  const figures = [...section.querySelectorAll("[data-choice]")].map((one) => one.closest("p"));
  if (figures.length < 2) continue;
  const texts = figures.map((one) => one.firstElementChild.dataset.choice);
  const chosen = figures.findIndex((one) => "chosen" in one.firstElementChild.dataset);
  const slider = addSlider("ε", texts, Math.max(0, chosen), (index) => {
    figures.forEach((one, k) => one.classList.toggle("other", k !== index));
  });
  slider.start();
  figures[0].before(slider.place);
}
