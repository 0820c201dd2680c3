// Targets of the tokens: p, T, Q and g of any method from the arrays of the page.
//
// a and b are the library's. log T = α·log p + β·log π − log Z with the stored
// normaliser Z over the whole vocabulary, so that the candidates' values are exact and
// the rest is the difference to 1.

/** The tokens of a page, their distributions and their targets. */
class PageModel {
  /**
   * @param {Header} header
   * @param {Arrays} arrays
   */
  constructor(header, arrays) {
    this.header = header;
    this.arrays = arrays;
    this.tokens = arrays.token.length;
    this.labels = Array.from(arrays.trained).filter(Boolean).length;
    /** Candidates per label, padding included. */
    this.width = this.labels ? arrays.candidate.length / this.labels : 0;
    /** Label -> index of its token. */
    this.tokenOf = new Int32Array(this.labels);
    /** Token -> index of its label; −1 for context. */
    this.labelOf = new Int32Array(this.tokens).fill(-1);
    let label = 0;
    for (let n = 0; n < this.tokens; n++) {
      if (!arrays.trained[n]) continue;
      this.tokenOf[label] = n;
      this.labelOf[n] = label++;
    }
    this.special = new Set(header.special);
    this.hasTeacher = header.roles.includes("teacher");
    this.hasBefore = header.roles.includes("before");
    /** @type {Map<string, MethodEntry>} */
    this.methods = new Map(header.methods.map((entry) => [entry.name, entry]));
    /** @type {Map<string, Float32Array>} */
    this._moved = new Map();
  }

  /**
   * Text of a token.
   * @param {number} token
   */
  text(token) {
    return this.header.texts[this.arrays.token[token]];
  }

  /**
   * The row of a token.
   * @param {number} token
   */
  row(token) {
    const rows = this.header.rows;
    const found = rows.find((r) => token >= r.first && token < r.first + r.count);
    if (found === undefined) throw new Error(`token ${token} is in no row`);
    return found;
  }

  /**
   * Local indices of a label's candidates; the first is the label itself.
   * @param {number} label
   */
  candidates(label) {
    const first = label * this.width;
    const all = this.arrays.candidate.subarray(first, first + this.width);
    let last = all.length;
    while (last > 0 && all[last - 1] < 0) last--;
    return all.subarray(0, last);
  }

  /**
   * Log-probabilities of a role at a label's candidates.
   * @param {string} role
   * @param {number} label
   */
  logs(role, label) {
    const first = label * this.width;
    const number = this.candidates(label).length;
    return this.arrays[`logprob_${role}`].subarray(first, first + number);
  }

  /**
   * Probabilities of a role at a label's candidates, and the rest.
   * @param {string} role
   * @param {number} label
   */
  probabilities(role, label) {
    return withRest(Float64Array.from(this.logs(role, label), Math.exp));
  }

  /**
   * Probability of each label under a role.
   * @param {string} role
   */
  labelProbabilities(role) {
    const logs = this.arrays[`logprob_${role}`];
    return Float32Array.from({ length: this.labels }, (_, m) =>
      Math.exp(logs[m * this.width]),
    );
  }

  /**
   * The alternative T of a method at a label's candidates, and the rest; null without.
   * @param {MethodEntry} method
   * @param {number} stop
   * @param {number} label
   * @returns {Float64Array | null}
   */
  alternative(method, stop, label) {
    const kind = method.alternative;
    if (kind === null) return null;
    const student = this.logs("student", label);
    if (kind.kind === "uniform") {
      return withRest(
        new Float64Array(student.length).fill(1 / this.header.vocabulary_size),
      );
    }
    if (kind.kind === "scores") {
      const first = label * this.width;
      const scores = this.arrays[kind.array].subarray(first, first + student.length);
      return withRest(Float64Array.from(scores, Math.exp));
    }
    const stops = this.header.eta_stops;
    const isEta = kind.kind === "eta_mix";
    const alpha = isEta ? 1 - stops[stop] : kind.alpha;
    const beta = isEta ? stops[stop] : kind.beta;
    const other = kind.other === null ? student : this.logs(kind.other, label);
    let logZ = 0;
    if (isEta) logZ = this.arrays.logz_eta[label * stops.length + stop];
    else if (kind.normaliser) logZ = this.arrays[kind.normaliser][label];
    const t = new Float64Array(student.length);
    for (let k = 0; k < t.length; k++) {
      // A factor of 0 leaves its model out, also where its logarithm is −∞.
      const score =
        (alpha === 0 ? 0 : alpha * student[k]) + (beta === 0 ? 0 : beta * other[k]);
      t[k] = Math.exp(score - logZ);
    }
    return withRest(t);
  }

  /**
   * Weights, distributions and gradient of a method at a label.
   * @param {MethodEntry} method
   * @param {number} stop
   * @param {number} label
   * @returns {Distributions}
   */
  target(method, stop, label) {
    const a = this.arrays[`a_${method.name}`][label];
    const p = this.probabilities("student", label);
    const t = this.alternative(method, stop, label);
    const b = t === null ? 0 : this.arrays[`b_${method.name}`][label];
    const gradient = new Float64Array(p.length);
    const target = new Float64Array(p.length);
    for (let k = 0; k < p.length; k++) {
      gradient[k] = a * (p[k] - (k === 0 ? 1 : 0)) + (t ? b * (p[k] - t[k]) : 0);
      target[k] = p[k] - gradient[k];
    }
    return { a, b, p, alternative: t, target, gradient };
  }

  /**
   * Mass that the target moves at each label: ½ Σ |Q − p|, with the rest as one token.
   * @param {MethodEntry} method
   * @param {number} stop
   * @returns {Float32Array}
   */
  moved(method, stop) {
    const usesEta = method.alternative?.kind === "eta_mix";
    const key = usesEta ? `${method.name} ${stop}` : method.name;
    let values = this._moved.get(key);
    if (values === undefined) {
      values = Float32Array.from({ length: this.labels }, (_, m) => {
        const { gradient } = this.target(method, stop, m);
        return gradient.reduce((sum, g) => sum + Math.abs(g), 0) / 2;
      });
      this._moved.set(key, values);
    }
    return values;
  }

  /**
   * Disagreement with the teacher in nats, on and off the student's support S, the
   * `top` tokens that the student finds most probable.
   *
   * By the chain rule KL(π_T ‖ p) is the sum of the part within S, π_T(S)·KL on S, which
   * reweighting S could remove, and a part that needs tokens outside.
   * @param {number} label
   * @returns {{on: number, off: number}}
   */
  disagreement(label) {
    const p = this.probabilities("student", label).subarray(0, -1);
    const t = this.probabilities("teacher", label);
    const order = [...p.keys()].sort((i, j) => p[j] - p[i]);
    const support = order.slice(0, this.header.top);
    const massOfP = support.reduce((sum, k) => sum + p[k], 0);
    const massOfT = support.reduce((sum, k) => sum + t[k], 0);
    let on = 0;
    for (const k of support) {
      if (t[k] > 0) on += t[k] * Math.log(t[k] / massOfT / (p[k] / massOfP));
    }
    const total = this.arrays.kl_teacher[label];
    on = Math.min(Math.max(on, 0), Math.max(total, 0));
    return { on, off: Math.max(total - on, 0) };
  }

  /**
   * The candidate other than the label that a role finds most probable.
   * @param {string} role
   * @param {number} label
   * @returns {{candidate: number, probability: number}}
   */
  favourite(role, label) {
    const logs = this.logs(role, label);
    let best = -1;
    for (let k = 1; k < logs.length; k++) {
      if (best < 0 || logs[k] > logs[best]) best = k;
    }
    if (best < 0) return { candidate: -1, probability: 0 };
    return {
      candidate: this.candidates(label)[best],
      probability: Math.exp(logs[best]),
    };
  }
}

/**
 * Append 1 − Σ, which rounding may leave just below 0.
 * @param {Float64Array} values
 */
function withRest(values) {
  const result = new Float64Array(values.length + 1);
  result.set(values);
  const total = values.reduce((sum, x) => sum + x, 0);
  result[values.length] = Math.max(0, 1 - total);
  return result;
}
