// The curve of the paper: gradient and target against p_y, of any methods.

const PLOT = { width: 340, height: 240, left: 38, right: 10, top: 26, bottom: 30 };
const FIRST_METHODS = ["sft", "dft", "eaft", "target_sft"];
/** @type {Record<string, number>} */
const OWN_COLOURS = { sft: 5, dft: 0, eaft: 1, kd: 2, target_sft: 3 };
const COLOURS = 6;

/**
 * @typedef {object} Plot
 * @property {SVGElement} svg
 * @property {SVGElement} lines
 * @property {SVGElement} marks
 * @property {SVGElement} cursor
 * @property {"gradient" | "target"} kind
 * @property {number} low
 * @property {number} high
 */

/** Two plots, a row of methods to choose from, and a table of values. */
class CurveChart {
  /**
   * @param {HTMLElement} root
   * @param {CurveData} curve
   * @param {string} chosen
   */
  constructor(root, curve, chosen) {
    this.curve = curve;
    this.chosen = chosen;
    /** @type {CurveMark | null} */
    this.mark = null;
    this.index = Math.round(0.3 * (curve.p.length - 1));
    this.shown = new Set(FIRST_METHODS.filter((name) => name in curve.methods));
    this.names = Object.keys(curve.methods);
    /** @type {Map<string, number>} */
    this.colours = new Map();
    this.plots = [
      this._plot("gradient", "Gradient g"),
      this._plot("target", "Induced target Q"),
    ];
    this.chips = element("div", {
      class: "chips",
      role: "group",
      "aria-label": "Methods of the curve",
    });
    this.table = element("table", { class: "values" });
    this.caption = element("p", { class: "at", role: "status" });
    root.append(
      this.chips,
      element("div", { class: "plots" }, ...this.plots.map((plot) => plot.svg)),
      element(
        "p",
        { class: "key" },
        element("span", { class: "solid" }),
        "the label",
        element("span", { class: "dashed" }),
        "another token",
      ),
      this.caption,
      element("div", { class: "scroll" }, this.table),
      element("p", { class: "help" }, formula(curve.setting)),
    );
    this.chips.addEventListener("click", (event) => {
      const target = /** @type {Element} */ (event.target);
      const chip = /** @type {HTMLElement | null} */ (target.closest("[data-curve]"));
      const name = chip?.dataset.curve;
      if (name === undefined) return;
      if (!this.shown.delete(name)) this.shown.add(name);
      else this.colours.delete(name);
      this.draw();
    });
    for (const name of this.names) {
      const chip = { type: "button", "data-curve": name };
      this.chips.append(element("button", chip, element("i"), name));
    }
    this.draw();
  }

  /**
   * Emphasise a method and mark a token; null for none.
   * @param {string} chosen
   * @param {CurveMark | null} mark
   */
  update(chosen, mark) {
    this.chosen = chosen;
    this.mark = mark;
    if (mark !== null) this.index = this._nearest(mark.p);
    this.draw();
  }

  /** Draw lines, chips, marks and values. */
  draw() {
    const { curve } = this;
    const visibleNames = this.visibleNames();
    for (const chip of this.chips.children) {
      const name = /** @type {HTMLElement} */ (chip).dataset.curve ?? "";
      const shown = visibleNames.includes(name);
      setAttributes(chip, {
        "aria-pressed": String(shown),
        class: name === this.chosen ? "chosen" : "",
        style: shown ? `--run:${this.colour(name)}` : "",
      });
    }
    for (const plot of this.plots) {
      const ends = this._range(plot.kind, visibleNames);
      [plot.low, plot.high] = ends;
      plot.lines.replaceChildren(...this._axes(plot));
      for (const name of visibleNames) {
        const lines = curve.methods[name];
        const [label, other] =
          plot.kind === "gradient"
            ? [lines.label_gradient, lines.other_gradient]
            : [lines.label_target, lines.other_target];
        const kind = name === this.chosen ? "line chosen" : "line";
        const style = `stroke:${this.colour(name)}`;
        plot.lines.append(
          drawing("path", { class: `${kind} other`, style, d: this._path(plot, other) }),
          drawing("path", { class: kind, style, d: this._path(plot, label) }),
        );
      }
      this._drawMark(plot);
    }
    this._drawCursor();
  }

  /** Names of the drawn methods, the chosen one last, on top. */
  visibleNames() {
    const names = this.names.filter((n) => this.shown.has(n) && n !== this.chosen);
    return this.names.includes(this.chosen) ? [...names, this.chosen] : names;
  }

  /**
   * Colour of a method: its own, or the one that the fewest drawn methods have.
   * @param {string} name
   */
  colour(name) {
    let number = OWN_COLOURS[name] ?? this.colours.get(name);
    if (number === undefined) {
      const uses = new Array(COLOURS).fill(0);
      for (const other of this.visibleNames()) {
        const used = OWN_COLOURS[other] ?? this.colours.get(other);
        if (used !== undefined) uses[used]++;
      }
      // The sky blue comes first: no method has it as its own.
      number = [4, 2, 1, 0, 5, 3].reduce((a, b) => (uses[b] < uses[a] ? b : a));
      this.colours.set(name, number);
    }
    return `var(--run-${number})`;
  }

  /**
   * @param {"gradient" | "target"} kind
   * @param {string} title
   * @returns {Plot}
   */
  _plot(kind, title) {
    const { width, height, left, top } = PLOT;
    const lines = drawing("g");
    const marks = drawing("g");
    const cursor = drawing("g", { class: "cursor" });
    const svg = drawing(
      "svg",
      {
        viewBox: `0 0 ${width} ${height}`,
        tabindex: 0,
        role: "slider",
        "aria-label": `${title} against the label’s probability p_y`,
        "aria-valuemin": 0,
        "aria-valuemax": 1,
        "data-plot": kind,
      },
      drawing("text", { class: "title", x: left, y: top - 12 }, title),
      lines,
      cursor,
      marks,
    );
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * width;
      this._point(this._nearest((x - left) / (width - left - PLOT.right)));
    });
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      this._point(this.index + step);
    });
    return { svg, lines, marks, cursor, kind, low: 0, high: 1 };
  }

  /** @param {number} index */
  _point(index) {
    this.index = Math.min(Math.max(index, 0), this.curve.p.length - 1);
    this._drawCursor();
  }

  /** @param {number} p */
  _nearest(p) {
    let best = 0;
    const { p: points } = this.curve;
    points.forEach((x, n) => {
      if (Math.abs(x - p) < Math.abs(points[best] - p)) best = n;
    });
    return best;
  }

  /**
   * @param {"gradient" | "target"} kind
   * @param {string[]} names
   * @returns {[number, number]}
   */
  _range(kind, names) {
    const all = names.flatMap((name) => {
      const lines = this.curve.methods[name];
      return kind === "gradient"
        ? [...lines.label_gradient, ...lines.other_gradient]
        : [...lines.label_target, ...lines.other_target];
    });
    const { mark } = this;
    if (mark) all.push(kind === "gradient" ? mark.gradient : mark.target);
    const numbers = all.filter((y) => y !== null).map(Number);
    const [least, most] = kind === "gradient" ? [-1, 0.5] : [0, 1];
    // Lines of unbounded weights leave the plot.
    const low = Math.max(Math.min(least, ...numbers), -2);
    const high = Math.min(Math.max(most, ...numbers), 2);
    return [Math.floor(low * 4) / 4, Math.ceil(high * 4) / 4];
  }

  /**
   * @param {Plot} plot
   * @returns {SVGElement[]}
   */
  _axes(plot) {
    const { width, height, left, right, top, bottom } = PLOT;
    const nodes = [];
    const step = plot.high - plot.low > 1.6 ? 0.5 : 0.25;
    for (let y = Math.ceil(plot.low / step) * step; y <= plot.high + 1e-9; y += step) {
      const height = this._y(plot, y);
      const kind = Math.abs(y) < 1e-9 ? "grid zero" : "grid";
      nodes.push(
        drawing("line", { class: kind, x1: left, x2: width - right, y1: height, y2: height }),
        drawing(
          "text",
          { class: "tick", x: left - 6, y: height + 3.5, "text-anchor": "end" },
          y.toFixed(2).replace(/\.?0+$/, "").replace("-", "−") || "0",
        ),
      );
    }
    for (const p of [0, 0.25, 0.5, 0.75, 1]) {
      nodes.push(
        drawing(
          "text",
          { class: "tick", x: this._x(p), y: height - bottom + 14, "text-anchor": "middle" },
          String(p),
        ),
      );
    }
    nodes.push(
      drawing(
        "text",
        { class: "tick axis", x: width - right, y: height - 3, "text-anchor": "end" },
        "p",
        drawing("tspan", { dy: 2, "font-size": "8px" }, "y"),
        drawing("tspan", { dy: -2 }, ", the label’s probability"),
      ),
    );
    return nodes;
  }

  /**
   * @param {Plot} plot
   * @param {(number | null)[]} values
   */
  _path(plot, values) {
    let path = "";
    let isDrawing = false;
    values.forEach((value, n) => {
      const isInside = value !== null && value >= plot.low - 1 && value <= plot.high + 1;
      if (value === null || !isInside) {
        isDrawing = false;
        return;
      }
      const y = Math.min(Math.max(value, plot.low), plot.high);
      const x = this._x(this.curve.p[n]);
      path += `${isDrawing ? "L" : "M"}${x.toFixed(1)} ${this._y(plot, y).toFixed(1)}`;
      isDrawing = true;
    });
    return path;
  }

  /** @param {Plot} plot */
  _drawMark(plot) {
    const { mark } = this;
    plot.marks.replaceChildren();
    if (mark === null) return;
    const value = plot.kind === "gradient" ? mark.gradient : mark.target;
    const x = this._x(mark.p);
    const y = this._y(plot, Math.min(Math.max(value, plot.low), plot.high));
    const end = mark.p > 0.6;
    plot.marks.append(
      drawing("circle", {
        class: "mark",
        style: `--run:${this.colour(this.chosen)}`,
        ...{ cx: x, cy: y, r: 5 },
      }),
      drawing(
        "text",
        {
          class: "mark",
          x: end ? x - 9 : x + 9,
          y: y > PLOT.top + 16 ? y - 7 : y + 16,
          "text-anchor": end ? "end" : "start",
        },
        mark.text,
      ),
    );
  }

  _drawCursor() {
    const { curve, index } = this;
    const p = curve.p[index];
    const x = this._x(p);
    const { height, top, bottom } = PLOT;
    for (const plot of this.plots) {
      plot.cursor.replaceChildren(
        drawing("line", { x1: x, x2: x, y1: top - 4, y2: height - bottom }),
      );
      setAttributes(plot.svg, { "aria-valuenow": p, "aria-valuetext": `p_y = ${p}` });
    }
    this.caption.replaceChildren(formula(`Values at p_y = ${figure(p)}`));
    const names = this.visibleNames().reverse();
    const head = ["g label", "g other", "Q label", "Q other"].map((text) =>
      element("th", { scope: "col" }, text),
    );
    const rows = names.map((name) => {
      const lines = curve.methods[name];
      const numbers = [
        lines.label_gradient,
        lines.other_gradient,
        lines.label_target,
        lines.other_target,
      ].map((line) => element("td", {}, figure(line[index] ?? NaN)));
      const key = element("i", { style: `--run:${this.colour(name)}` });
      return element(
        "tr",
        { "data-values": name },
        element("th", { scope: "row" }, key, name),
        ...numbers,
      );
    });
    this.table.replaceChildren(
      element("thead", {}, element("tr", {}, element("td"), ...head)),
      element("tbody", {}, ...rows),
    );
  }

  /** @param {number} p */
  _x(p) {
    return PLOT.left + p * (PLOT.width - PLOT.left - PLOT.right);
  }

  /**
   * @param {Plot} plot
   * @param {number} value
   */
  _y(plot, value) {
    const share = (value - plot.low) / (plot.high - plot.low);
    return PLOT.height - PLOT.bottom - share * (PLOT.height - PLOT.top - PLOT.bottom);
  }
}
