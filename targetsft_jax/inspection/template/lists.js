// Lists of labels to look at: most doubted, most moved, most changed.

const LISTED = 24;

/**
 * @typedef {object} ListEntry
 * @property {string} key
 * @property {string} name
 * @property {string} help
 * @property {(model: PageModel) => boolean} available
 * @property {(model: PageModel, method: MethodEntry, stop: number) => Float32Array} score
 * @property {(model: PageModel, label: number, score: number) => string} note
 */

/** @type {ListEntry[]} */
const LISTS = [
  {
    key: "doubted",
    name: "Doubted",
    help: "Labels that the student finds improbable while the teacher is confident of another token: (1 − p_y) · largest π_T elsewhere.",
    available: () => true,
    score: (model) => doubts(model),
    note: (model, label) => {
      const role = model.hasTeacher ? "teacher" : "student";
      const { candidate, probability } = model.favourite(role, label);
      if (candidate < 0) return "";
      return `${role}: ${visible(model.header.texts[candidate])} ${figure(probability)}`;
    },
  },
  {
    key: "moved",
    name: "Moved",
    help: "Tokens with the largest gradient under the chosen method: ½ Σ|g|, the mass that the target moves.",
    available: () => true,
    score: (model, method, stop) => model.moved(method, stop),
    note: (_model, _label, score) => `moves ${figure(score)}`,
  },
  {
    key: "changed",
    name: "Changed",
    help: "Labels whose probability differs most from the earlier checkpoint.",
    available: (model) => model.hasBefore,
    score: (model) => {
      const before = model.labelProbabilities("before");
      const after = model.labelProbabilities("student");
      return after.map((p, m) => Math.abs(p - before[m]));
    },
    note: (model, label) => {
      const before = Math.exp(model.logs("before", label)[0]);
      const after = Math.exp(model.logs("student", label)[0]);
      return `${figure(before)} → ${figure(after)}`;
    },
  },
];

/** @param {PageModel} model */
function doubts(model) {
  const role = model.hasTeacher ? "teacher" : "student";
  return model
    .labelProbabilities("student")
    .map((p, m) => (1 - p) * model.favourite(role, m).probability);
}

/** The lists, one shown at a time. */
class Lists {
  /**
   * @param {PageModel} model
   * @param {HTMLElement} root
   * @param {(token: number) => void} go
   */
  constructor(model, root, go) {
    this.model = model;
    this.entries = LISTS.filter((entry) => entry.available(model));
    this.current = this.entries[0];
    this.help = element("p", { class: "help" });
    this.list = element("ol", { class: "found", tabindex: "-1" });
    this.list.addEventListener("click", (event) => {
      const target = /** @type {Element} */ (event.target);
      const button = /** @type {HTMLElement | null} */ (target.closest("[data-go]"));
      if (button) go(Number(button.dataset.go));
    });
    this.tabs = tabList(
      "Lists of labels",
      this.entries.map(({ key, name }) => ({ key, name })),
      (key) => {
        this.current = this.entries.find((entry) => entry.key === key) ?? this.current;
        this.show(this.method, this.stop);
      },
    );
    this.tabs.select(this.current.key);
    root.append(this.tabs.root, this.help, this.list);
    this.method = model.header.methods[0];
    this.stop = 0;
    this.shown = "";
  }

  /**
   * Show the current list for a method.
   * @param {MethodEntry} method
   * @param {number} stop
   */
  show(method, stop) {
    this.method = method;
    this.stop = stop;
    const { current, model } = this;
    const scores = current.score(model, method, stop);
    const order = [...scores.keys()].filter((m) => scores[m] > 0);
    order.sort((i, j) => scores[j] - scores[i]);
    this.help.replaceChildren(formula(current.help));
    this.list.replaceChildren(
      ...order.slice(0, LISTED).map((label) => this._item(label, scores[label])),
    );
    if (!order.length) this.list.append(element("li", {}, "none"));
  }

  /**
   * @param {number} label
   * @param {number} score
   */
  _item(label, score) {
    const { model } = this;
    const token = model.tokenOf[label];
    const { first } = model.row(token);
    let before = "";
    for (let n = token - 1; n >= first && before.length < 18; n--) {
      before = visible(model.text(n)).replace(/␣/g, " ") + before;
    }
    const p = Math.exp(model.logs("student", label)[0]);
    return element(
      "li",
      {},
      element(
        "button",
        { type: "button", "data-go": token },
        element(
          "span",
          { class: "where" },
          element("span", { class: "context" }, before.slice(-18)),
          element("mark", {}, visible(model.text(token)).replace(/^␣/, " ")),
        ),
        element(
          "span",
          { class: "note" },
          element("b", {}, formula(`p_y ${figure(p)}`)),
          element("span", {}, this.current.note(model, label, score)),
        ),
      ),
    );
  }
}

/**
 * A list of tabs.
 * @param {string} label
 * @param {{key: string, name: string}[]} tabs
 * @param {(key: string) => void} choose
 * @returns {{root: HTMLElement, select: (key: string) => void}}
 */
function tabList(label, tabs, choose) {
  const root = element("div", { role: "tablist", "aria-label": label, class: "tabs" });
  const buttons = tabs.map(({ key, name }) =>
    element("button", { type: "button", role: "tab", "data-tab": key }, name),
  );
  root.append(...buttons);
  root.addEventListener("click", (event) => {
    const target = /** @type {Element} */ (event.target);
    const button = /** @type {HTMLElement | null} */ (target.closest("[data-tab]"));
    if (!button?.dataset.tab) return;
    select(button.dataset.tab);
    choose(button.dataset.tab);
  });
  root.addEventListener("keydown", (event) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const here = buttons.findIndex((b) => b.getAttribute("aria-selected") === "true");
    const next = buttons[(here + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  });
  /** @param {string} key */
  function select(key) {
    for (const button of buttons) {
      const selected = button.dataset.tab === key;
      setAttributes(button, {
        "aria-selected": String(selected),
        tabindex: selected ? 0 : -1,
      });
    }
  }
  return { root, select };
}
