// Opens and closes the boxes of mg.draw()'s picture.  draw.py computed the first layout; this
// script computes it again after every click.  `layout` follows the same rules as in draw.py.
(() => {
  const [TOP, ROW, LINE, GAP, PAD] = [64, 24, 18, 9, 9];
  const [SPINE, LANE, TURN] = [12, 12, 5];
  const TRIANGLE = { false: "M-3-5 4 0-3 5z", true: "M-5-3 5-3 0 4z" };

  const svg = document.currentScript.closest("svg");
  const width = svg.viewBox.baseVal.width + svg.viewBox.baseVal.x; // to the right of x = 0

  // The rows are in order of time, a box before its children.
  const bands = [...svg.querySelectorAll(".band")];
  const rows = [...svg.querySelectorAll(".row")].map((g) => ({
    g, children: [], edges: [],
    x: +g.dataset.x, height: +g.dataset.height,
    band: g.hasAttribute("aria-expanded") ? bands.shift() : null,
    open: g.getAttribute("aria-expanded") === "true",
  }));
  const rowOf = new Map(rows.map((row) => [row.g.id, row]));
  for (const row of rows) {
    row.box = rowOf.get(row.g.dataset.inside);
    row.box?.children.push(row);
  }
  const edges = [...svg.querySelectorAll(".edge")].map((g) => (
    { g, start: rowOf.get(g.dataset.start), end: rowOf.get(g.dataset.end) }
  ));
  for (const edge of edges) edge.end.edges.push(edge);

  const isVisible = (row) => !row.box || (row.box.open && isVisible(row.box));

  function layout() {
    for (const { g, band } of rows) for (const e of [g, band]) e?.setAttribute("display", "none");
    for (const { g } of edges) g.setAttribute("display", "none");
    const withLines = rows.filter((row) => isVisible(row) && !row.open);
    withLines.forEach((row, i) => { row.order = i; });

    function put(row, y) {
      row.inputs = row.open ? [] : row.edges.filter((edge) => withLines.includes(edge.start));
      row.inputs.sort((a, b) => b.start.order - a.start.order);
      row.y = y + GAP + LINE * row.inputs.length;
      row.bottom = row.y + row.height;
      if (row.open) {
        for (const child of row.children) row.bottom = put(child, row.bottom);
        row.bottom += PAD;
        show(row.band, { y: row.y, height: row.bottom - row.y });
      }
      show(row.g, { transform: `translate(0 ${row.y})` });
      if (row.band) {
        row.g.setAttribute("aria-expanded", row.open);
        row.g.querySelector(".triangle").setAttribute("d", TRIANGLE[row.open]);
      }
      return row.bottom;
    }
    let height = TOP;
    for (const row of rows) if (!row.box) height = put(row, height);

    const lanes = [];
    const distance = (edge) => edge.end.order - edge.start.order;
    const drawn = withLines.flatMap((row) => row.inputs).sort((a, b) => distance(a) - distance(b));
    for (const edge of drawn) {
      const { start, end } = edge;
      const n = end.inputs.length, i = end.inputs.indexOf(edge);
      const x = end.x + SPINE * (n - i);
      const y = end.y - LINE * (n - i) + LINE / 2;
      const labelX = Math.max(end.x + SPINE * n, end.inputs[0].start.x + SPINE) + 8;
      let d = `M${labelX - 8} ${start.y + start.height}V${end.y}`;
      if (distance(edge) !== 1) {
        const out = start.y + ROW / 2;
        const left = -LANE * (1 + freeLane(lanes, Math.min(out, y), Math.max(out, y)));
        d = `M${start.x} ${out}H${left + TURN}q${-TURN} 0 ${-TURN} ${TURN}V${y - TURN}`
          + `q0 ${TURN} ${TURN} ${TURN}H${x - TURN}q${TURN} 0 ${TURN} ${TURN}V${end.y}`;
      }
      show(edge.g, {});
      show(edge.g.querySelector("path"), { d });
      show(edge.g.querySelector("text"), { x: labelX, y });
    }
    const left = -LANE * (lanes.length + 1);
    show(svg, { viewBox: `${left} 0 ${width - left} ${height + GAP}`,
                width: width - left, height: height + GAP });
  }

  function show(element, attributes) {
    element.removeAttribute("display");
    for (const name in attributes) element.setAttribute(name, attributes[name]);
  }

  function freeLane(lanes, top, bottom) {
    let i = lanes.findIndex((occupied) => occupied.every(([a, b]) => bottom < a || b < top));
    if (i < 0) i = lanes.push([]) - 1;
    lanes[i].push([top, bottom]);
    return i;
  }

  function button(g, act) {
    const run = () => { act(); layout(); };
    g.addEventListener("click", run);
    g.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      run();
    });
  }

  const boxes = rows.filter((row) => row.band);
  for (const row of boxes) button(row.g, () => { row.open = !row.open; });
  if (boxes.length) {
    const hint = svg.querySelector(".hint");
    hint.textContent = "Click a module, or press Enter on it. ";
    const all = document.createElementNS(svg.namespaceURI, "tspan");
    hint.append(all);
    all.setAttribute("role", "button");
    all.setAttribute("tabindex", 0);
    const name = () => { all.textContent = boxes.every((row) => row.open) ? "Close all" : "Open all"; };
    button(all, () => {
      const open = !boxes.every((row) => row.open);
      for (const row of boxes) row.open = open;
      name();
    });
    name();
  }
})();
