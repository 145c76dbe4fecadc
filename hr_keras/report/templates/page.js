"use strict";
// Values of the curves at one epoch, chosen with a slider. The page is complete without it.
for (const link of document.querySelectorAll('a[download="curves.csv"]')) {
  const bytes = Uint8Array.from(atob(link.href.split(";base64,")[1]), (c) => c.charCodeAt(0));
  const [header, ...lines] = new TextDecoder().decode(bytes).trim().split("\n");
  const names = header.split(",");
  // From the end: only the first column, the name of the data set, may hold commas.
  const rows = lines.map((line) => {
    const cells = line.split(",").slice(1 - names.length);
    return Object.fromEntries(names.slice(1).map((name, k) => [name, cells[k]]));
  }).filter((row) => row.epoch > 0);
  const curves = new Map();
  for (const row of rows) {
    const key = [row.method, row.through, row.epsilon].join();
    curves.set(key, [...(curves.get(key) || []), row]);
  }
  const last = Math.max(...rows.map((row) => Number(row.epoch)));
  const make = (tag, text = "") => Object.assign(document.createElement(tag), { textContent: text });
  const label = make("label", "Validation accuracy at epoch ");
  const output = make("output", String(last));
  const slider = Object.assign(make("input"), { type: "range", min: 1, max: last, value: last });
  const table = make("table");
  table.append(make("caption", "Validation accuracy at the chosen epoch"));
  const head = table.createTHead().insertRow();
  const body = table.createTBody();
  for (const title of ["trained with", "FGSM", "ε", "validation accuracy"]) {
    head.append(Object.assign(make("th", title), { scope: "col" }));
  }
  const cells = [...curves.values()].map((curve) => {
    const line = body.insertRow();
    line.append(Object.assign(make("th", curve[0].method), { scope: "row" }));
    const through = { none: "none", probabilities: "as published", logits: "exact" };
    line.insertCell().textContent = through[curve[0].through];
    line.insertCell().textContent = curve[0].epsilon;
    return [line.insertCell(), curve];
  }).filter((row) => row.epoch > 0);
  const show = () => {
    output.textContent = slider.value;
    for (const [cell, curve] of cells) {
      const row = curve.filter((one) => Number(one.epoch) <= Number(slider.value)).at(-1);
      cell.textContent = row ? Number(row.mean).toFixed(3).replace(/^0/, "") : "–";
    }
  };
  slider.addEventListener("input", show);
  show();
  label.append(output, slider);
  const place = make("div");
  place.className = "chosen";
  place.append(label, table);
  link.closest("p").before(place);
}
