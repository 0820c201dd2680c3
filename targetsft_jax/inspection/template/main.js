// Start of the page: unpack the data, create the parts, connect them to the state.

/** The page: its parts and what each change of the state redraws. */
class Page {
  /** @param {PageModel} model */
  constructor(model) {
    this.model = model;
    const { header } = model;
    const defaults = {
      method: header.default_method,
      stop: nearestStop(header.eta_stops, header.default_eta),
      colour: "trust",
      token: null,
      view: "text",
      log: false,
    };
    this.state = new PageState(defaults, header.eta_stops);
    Object.assign(this.state.now, this._parse());
    this.text = new TextView(model, byId("rows"));
    /** @type {TextView | null} */
    this.earlier = null;
    this.legend = new Legend(byId("legend"));
    this.controls = new Controls(model, this.state);
    this.detail = new Detail(model, byId("detail"), this.state);
    this.lists = new Lists(model, byId("lists"), (token) => this.go(token));
    /** @type {CurveChart | null} */
    this.curve = null;
    // The lists would push the text off a small window.
    const isNarrow = matchMedia("(max-width: 75rem)").matches;
    /** @type {HTMLDetailsElement} */ (byId("where")).open = !isNarrow;
    const bar = byId("bar");
    new ResizeObserver(() => {
      document.documentElement.style.setProperty("--bar", `${bar.offsetHeight}px`);
    }).observe(bar);
    this.state.listeners.push((changed) => this.show(changed));
    this._listen();
    fillAbout(model, byId("about"));
    this.show(new Set(Object.keys(this.state.now)));
    if (this.state.now.token !== null) this.text.pin(this.state.now.token, "center");
  }

  get method() {
    const method = this.model.methods.get(this.state.now.method);
    if (method === undefined) throw new Error(`no method ${this.state.now.method}`);
    return method;
  }

  /**
   * Redraw what a change of the state touches.
   * @param {Set<string>} changed
   */
  show(changed) {
    const { model, state } = this;
    const { stop, token, view } = state.now;
    this.controls.show();
    if (changed.has("view")) this._showView();
    const isTarget = changed.has("method") || changed.has("stop");
    if (isTarget || changed.has("colour") || changed.has("view")) this._colour();
    if (changed.has("token")) {
      this.text.pin(token, null);
      this.earlier?.pin(token, null);
    }
    if (isTarget) this.lists.show(this.method, stop);
    if (isTarget || changed.has("token") || changed.has("log")) this.detail.show();
    document.body.classList.toggle("has-pin", token !== null);
    if (view === "curves") this._showCurve();
    const label = token === null ? -1 : model.labelOf[token];
    this.legend.point(label < 0 || !this.scale ? null : this.scale.values[label]);
  }

  /**
   * Pin a token and bring it into view.
   * @param {number} token
   */
  go(token) {
    const { view } = this.state.now;
    this.state.set({ token, view: view === "about" ? "text" : view });
    this._scrollToPin("center");
  }

  /** @param {"center" | "nearest"} place */
  _scrollToPin(place) {
    const { token, view } = this.state.now;
    if (token === null) return;
    if (view === "text" || view === "compare") this.text.pin(token, place);
  }

  _colour() {
    const { model, state } = this;
    const { stop, view } = state.now;
    const key = shownColour(state.now);
    this.scale = measure(key, model, this.method, stop);
    this.text.colour(this.scale);
    this.legend.show(this.scale);
    byId("question").textContent = this.scale.question;
    if (this.earlier !== null && view === "compare") {
      const values =
        key === "entropy"
          ? float32(model.arrays.entropy_before)
          : model.labelProbabilities("before");
      this.earlier.colour({ ...this.scale, values });
    }
    this._summarise(this.scale);
  }

  /** @param {Measure} scale */
  _summarise({ key, values }) {
    const defined = values.filter((x) => !Number.isNaN(x));
    const mean = defined.reduce((sum, x) => sum + x, 0) / Math.max(1, defined.length);
    const text = `${figure(mean)} on average over ${count(defined.length)} labels`;
    const doubted = count(values.filter((x) => x < 0.1).length);
    byId("summary").textContent =
      key === "trust"
        ? `γ is ${text}; ${doubted} labels have less than 0.1.`
        : `It is ${text}.`;
  }

  _showView() {
    const { view } = this.state.now;
    document.body.dataset.view = view;
    byId("text-view").hidden = view !== "text" && view !== "compare";
    byId("curve-view").hidden = view !== "curves";
    byId("about").hidden = view !== "about";
    byId("earlier").hidden = view !== "compare";
    if (view === "compare" && this.earlier === null) {
      this.earlier = new TextView(this.model, byId("earlier-rows"));
      this.earlier.pin(this.state.now.token, null);
    }
  }

  _showCurve() {
    const { model, state } = this;
    const { token, stop, method } = state.now;
    this.curve ??= new CurveChart(byId("curve"), model.header.curve, method);
    let mark = null;
    if (token !== null) {
      const { p, gradient, target } = model.target(this.method, stop, model.labelOf[token]);
      const text = visible(model.text(token));
      mark = { p: p[0], gradient: gradient[0], target: target[0], text };
    }
    this.curve.update(method, mark);
  }

  _listen() {
    const tip = byId("tip");
    for (const root of [byId("rows"), byId("earlier-rows")]) {
      root.addEventListener("click", (event) => {
        const token = tokenAt(event);
        if (token === null) return;
        this.state.set({ token });
        // The panel of a narrow window would cover it.
        this._scrollToPin("nearest");
      });
      root.addEventListener("pointerover", (event) => {
        const token = event.pointerType === "touch" ? null : tokenAt(event);
        tip.hidden = token === null;
        const pinned = this.state.now.token;
        const shown = token ?? pinned;
        const { scale } = this;
        if (!scale) return;
        const label = shown === null ? -1 : this.model.labelOf[shown];
        this.legend.point(label < 0 ? null : scale.values[label]);
        if (token === null) return;
        const name = scale.name.split(",")[0];
        let value = scale.values[this.model.labelOf[token]];
        if (root.id === "earlier-rows") {
          const m = this.model.labelOf[token];
          value = Math.exp(this.model.logs("before", m)[0]);
          if (scale.key === "entropy") value = this.model.arrays.entropy_before[m];
        }
        tip.textContent = `${name}  ${figure(value)}`;
        placeTip(tip, /** @type {Element} */ (event.target));
      });
      root.addEventListener("pointerleave", () => (tip.hidden = true));
    }
    document.addEventListener("keydown", (event) => this._key(event));
    window.addEventListener("hashchange", () => {
      this.state.set(this._parse());
      this._scrollToPin("center");
    });
  }

  /** @param {KeyboardEvent} event */
  _key(event) {
    const target = /** @type {Element} */ (event.target);
    if (event.key === "Escape") {
      this.state.set({ token: null });
      return;
    }
    const isControl = target.closest("input, select, [role=tablist], .scroll");
    if (isControl || event.ctrlKey || event.altKey || event.metaKey) return;
    const token = this._moved(event.key);
    if (token === undefined) return;
    event.preventDefault();
    if (token !== null) this.go(token);
  }

  /**
   * The token that a key moves to; undefined for other keys.
   * @param {string} key
   * @returns {number | null | undefined}
   */
  _moved(key) {
    const { labelOf, tokenOf, labels } = this.model;
    const { token, view } = this.state.now;
    const isInText = byId("rows").contains(document.activeElement);
    if (token === null) {
      return isInText && /^Arrow|^Home$/.test(key) && labels ? tokenOf[0] : undefined;
    }
    const label = labelOf[token];
    const text = view === "compare" && this.earlier ? this.earlier : this.text;
    if (key === "ArrowRight") return tokenOf[Math.min(label + 1, labels - 1)];
    if (key === "ArrowLeft") return tokenOf[Math.max(label - 1, 0)];
    if (view === "curves" || view === "about") return undefined;
    if (key === "ArrowDown") return text.vertical(token, 1);
    if (key === "ArrowUp") return text.vertical(token, -1);
    return undefined;
  }

  _parse() {
    const { model } = this;
    const views = ["text", "curves", "about", ...(model.hasBefore ? ["compare"] : [])];
    return this.state.parse(location.hash, {
      method: (text) => model.methods.get(text)?.refusal === null,
      stop: (text) => Number(text) in model.header.eta_stops,
      colour: (text) => MEASURES.some((m) => m.key === text && m.available(model)),
      token: (text) => (model.labelOf[Number(text)] ?? -1) >= 0,
      view: (text) => views.includes(text),
      log: (text) => text === "true",
    });
  }
}

/**
 * The label's token under an event.
 * @param {Event} event
 * @returns {number | null}
 */
function tokenAt(event) {
  const target = /** @type {Element} */ (event.target);
  const span = /** @type {HTMLElement | null} */ (target.closest("[data-n]"));
  return span === null ? null : Number(span.dataset.n);
}

/**
 * Place the tip above a token, within the window.
 * @param {HTMLElement} tip
 * @param {Element} target
 */
function placeTip(tip, target) {
  const span = target.closest("[data-n]") ?? target;
  const box = span.getClientRects()[0];
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const left = Math.min(Math.max(box.left, 8), Math.max(room, 8));
  tip.style.left = `${left}px`;
  tip.style.top = `${Math.max(box.top - tip.offsetHeight - 6, 4)}px`;
}

/**
 * @param {number[]} stops
 * @param {number} eta
 */
function nearestStop(stops, eta) {
  let best = 0;
  stops.forEach((x, n) => {
    if (Math.abs(x - eta) < Math.abs(stops[best] - eta)) best = n;
  });
  return best;
}

/**
 * Fill the view of models, versions, and methods that are not available.
 * @param {PageModel} model
 * @param {HTMLElement} root
 */
function fillAbout(model, root) {
  const { header } = model;
  const list = element("dl", { class: "provenance" });
  for (const [key, value] of Object.entries(header.provenance)) {
    if (value === null) continue;
    const text =
      typeof value === "string"
        ? value
        : Object.entries(value)
            .map(([name, version]) => `${name} ${version}`)
            .join(" · ");
    list.append(element("div", {}, element("dt", {}, key), element("dd", {}, text)));
  }
  root.append(element("h2", {}, "Models and rows"), list);
  const refused = header.methods.filter((entry) => entry.refusal !== null);
  if (!refused.length) return;
  const reasons = refused.map(({ name, refusal }) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, refusal ?? "")),
  );
  root.append(
    element("h2", {}, "Methods that are not available here"),
    element("dl", { class: "provenance" }, ...reasons),
  );
}

/** Unpack the data and start the page. */
async function start() {
  const text = byId("data").textContent ?? "";
  const { header, arrays } = readContainer(await decompress(text.trim()));
  new Page(new PageModel(header, arrays));
  document.body.classList.add("ready");
  performance.mark("ready");
}

start().catch((error) => {
  byId("summary").textContent =
    `This page cannot be shown: ${error}. It needs a browser of 2023 or newer.`;
  throw error;
});
