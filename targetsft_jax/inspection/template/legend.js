// The legend: a histogram of the labels over the ramp, with a mark at one value.

/** The legend of the current measure. */
class Legend {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.bars = element("div", { class: "bars" });
    this.mark = element("div", { class: "mark", hidden: true });
    this.low = element("span");
    this.middle = element("span", { class: "middle" });
    this.high = element("span");
    const ends = element("div", { class: "ends" }, this.low, this.middle, this.high);
    root.append(element("div", { class: "plot" }, this.bars, this.mark), ends);
    this.root = root;
    /** @type {Measure | null} */
    this.scale = null;
  }

  /** @param {Measure} scale */
  show(scale) {
    this.scale = scale;
    const counts = new Float64Array(LEVELS);
    let total = 0;
    let number = 0;
    for (const value of scale.values) {
      const n = level(scale, value);
      if (n < 0) continue;
      counts[n]++;
      total += value;
      number++;
    }
    const highest = Math.max(...counts, 1);
    this.bars.dataset.ramp = scale.ramp;
    this.bars.replaceChildren(
      ...Array.from(counts, (labels, n) => {
        // Square roots keep a bar of 1 % visible beside one of 60 %.
        const height = labels ? 8 + 92 * Math.sqrt(labels / highest) : 0;
        return element(
          "div",
          {},
          element("u", { style: `height:${height.toFixed(1)}%` }),
          element("s", { class: `v${n}` }),
        );
      }),
    );
    const mean = number ? total / number : NaN;
    const beyond = scale.values.some((value) => value > scale.high * (1 + 1e-6));
    this.low.textContent = figure(scale.low).replace(".000", "");
    this.middle.textContent = `mean ${figure(mean)}`;
    this.high.textContent =
      (beyond ? "≥ " : "") + figure(scale.high).replace(".000", "");
    setAttributes(this.root, {
      role: "img",
      "aria-label":
        `${scale.name}, from ${figure(scale.low)} to ${figure(scale.high)}; ` +
        `mean over ${count(number)} labels ${figure(mean)}`,
    });
  }

  /**
   * Mark a value; null removes the mark.
   * @param {number | null} value
   */
  point(value) {
    const { scale } = this;
    const hidden = value === null || scale === null || Number.isNaN(value);
    this.mark.hidden = hidden;
    if (hidden) return;
    const share = (value - scale.low) / (scale.high - scale.low);
    this.mark.style.left = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  }
}
