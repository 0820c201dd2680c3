// State of the page: one object, kept in the URL's hash, with listeners.

/** The choices of a visitor. */
class PageState {
  /**
   * @param {State} defaults
   * @param {number[]} stops values of η
   */
  constructor(defaults, stops) {
    this.defaults = defaults;
    this.stops = stops;
    this.now = { ...defaults };
    /** @type {((changed: Set<string>) => void)[]} */
    this.listeners = [];
  }

  /**
   * Change choices, inform the listeners, and write the hash.
   * @param {Partial<State>} choices
   */
  set(choices) {
    const changed = new Set(
      Object.keys(choices).filter(
        (key) =>
          this.now[/** @type {keyof State} */ (key)] !==
          choices[/** @type {keyof State} */ (key)],
      ),
    );
    if (!changed.size) return;
    Object.assign(this.now, choices);
    for (const listener of this.listeners) listener(changed);
    const hash = this.hash();
    // An entry per step would fill the history.
    history.replaceState(null, "", hash || location.pathname + location.search);
  }

  /** The choices that differ from the defaults, as a hash. */
  hash() {
    const words = new URLSearchParams();
    for (const [key, value] of Object.entries(this.now)) {
      if (value === this.defaults[/** @type {keyof State} */ (key)]) continue;
      if (key === "stop") words.set("eta", String(this.stops[Number(value)]));
      else words.set(key, String(value));
    }
    const text = words.toString();
    return text ? `#${text}` : "";
  }

  /**
   * Choices of a hash; names and numbers that the page lacks are left out.
   * @param {string} hash
   * @param {Record<keyof State, (text: string) => boolean>} isValid
   * @returns {State}
   */
  parse(hash, isValid) {
    /** @type {Record<string, unknown>} */
    const choices = { ...this.defaults };
    for (const [word, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
      const isEta = word === "eta";
      const key = isEta ? "stop" : word;
      const text = isEta ? String(this.stops.indexOf(Number(value))) : value;
      if (!(key in this.defaults)) continue;
      if (!isValid[/** @type {keyof State} */ (key)](text)) continue;
      if (key === "stop" || key === "token") choices[key] = Number(text);
      else if (key === "log") choices[key] = text === "true";
      else choices[key] = text;
    }
    return /** @type {State} */ (/** @type {unknown} */ (choices));
  }
}
