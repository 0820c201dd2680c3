// The controls: methods, the slider of η, the colour, and the views.

/** The bar of controls. */
class Controls {
  /**
   * @param {PageModel} model
   * @param {PageState} state
   */
  constructor(model, state) {
    this.model = model;
    this.state = state;
    this.method = /** @type {HTMLSelectElement} */ (byId("method"));
    this.eta = /** @type {HTMLInputElement} */ (byId("eta"));
    this.colour = /** @type {HTMLSelectElement} */ (byId("colour"));
    this._fill();
    this.method.addEventListener("change", () =>
      state.set({ method: this.method.value }),
    );
    this.eta.addEventListener("input", () =>
      state.set({ stop: Number(this.eta.value) }),
    );
    this.colour.addEventListener("change", () =>
      state.set({ colour: this.colour.value }),
    );
    const views = [
      { key: "text", name: "Text" },
      ...(model.hasBefore ? [{ key: "compare", name: "Before and after" }] : []),
      { key: "curves", name: "Curve" },
      { key: "about", name: "About" },
    ];
    this.views = tabList("Views", views, (view) => state.set({ view }));
    byId("views").append(this.views.root);
  }

  _fill() {
    const { header } = this.model;
    const allowed = header.methods.filter((entry) => entry.refusal === null);
    const refused = header.methods.filter((entry) => entry.refusal !== null);
    this.method.replaceChildren(
      ...allowed.map(({ name }) => element("option", { value: name }, name)),
    );
    if (refused.length) {
      const group = element("optgroup", { label: "not available here" });
      for (const { name, refusal } of refused) {
        const text = `${name}: ${refusal}`;
        group.append(element("option", { value: name, disabled: true }, text));
      }
      this.method.append(group);
    }
    setAttributes(this.eta, { min: 0, max: Math.max(header.eta_stops.length - 1, 0) });
    for (const entry of MEASURES) {
      if (!entry.available(this.model)) continue;
      this.colour.append(element("option", { value: entry.key }, entry.name));
    }
  }

  /** Show the state. */
  show() {
    const { model, state } = this;
    const { method: name, stop, view } = state.now;
    const method = model.methods.get(name);
    if (method === undefined) throw new Error(`no method ${name}`);
    this.method.value = name;
    this.eta.value = String(stop);
    this.colour.value = shownColour(state.now);
    for (const option of this.colour.options) {
      option.disabled = view === "compare" && !isComparable(option.value);
    }
    this.views.select(view);
    const usesEta = method.alternative?.kind === "eta_mix";
    const eta = model.header.eta_stops[stop];
    this.eta.disabled = !usesEta;
    byId("eta-control").classList.toggle("off", !usesEta);
    byId("eta-value").textContent = eta === undefined ? "–" : eta.toFixed(2);
    this.eta.setAttribute(
      "aria-valuetext",
      usesEta ? `η = ${eta}` : `${name} has no η`,
    );
    byId("formula").replaceChildren(
      element("b", {}, method.title ? formula(method.title) : name),
      ...this._formula(method),
    );
  }

  /**
   * The weights of a method as text, with its source.
   * @param {MethodEntry} method
   */
  _formula(method) {
    /** @type {(Node | string)[]} */
    const nodes = [];
    if (method.equation) {
      const equation = method.equation.replace(/\s+/g, " ");
      nodes.push(element("span", { class: "equation" }, formula(equation)));
    }
    const parts = [`γ = ${method.label_formula}`];
    if (method.alternative !== null) {
      parts.push(`b = ${method.alternative_formula}`);
      if (!method.equation) parts.push(`T ${alternativeText(method)}`);
    }
    const hyper = Object.entries(method.hyper)
      .filter(([key, value]) => value !== null && !(key === "eta" && this.model.hasTeacher))
      .map(([key, value]) => `${key} ${typeof value === "object" ? JSON.stringify(value) : value}`);
    nodes.push(...parts.map((text) => element("span", {}, formula(text))));
    nodes.push(...hyper.map((text) => element("span", {}, text)));
    if (method.note) nodes.push(element("span", {}, method.note));
    if (method.source) {
      const link = { href: method.source, rel: "noreferrer" };
      nodes.push(element("a", link, sourceText(method.source)));
    }
    return nodes;
  }
}

/** @param {MethodEntry} method */
function alternativeText(method) {
  const kind = method.alternative;
  if (kind === null) return "none";
  if (kind.kind === "uniform") return "uniform";
  if (kind.kind === "eta_mix") return "∝ p^(1−η) · π_T^η";
  if (kind.kind === "scores") return "of its own form";
  if (kind.alpha === 0) return `= the ${kind.other}’s distribution`;
  const student = `p^${figure(kind.alpha).replace(/\.?0+$/, "")}`;
  return kind.beta === 0
    ? `∝ ${student}`
    : `∝ ${student} · π^${figure(kind.beta).replace(/\.?0+$/, "")}`;
}

/** @param {string} source */
function sourceText(source) {
  return source.replace(/^https?:\/\/(www\.)?/, "").replace("arxiv.org/abs/", "arXiv ");
}
