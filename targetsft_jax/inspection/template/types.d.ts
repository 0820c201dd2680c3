// Types of the page's data, as inspection/page_data.py writes them. Read by tsc only.

interface ArrayEntry {
  dtype: "f32" | "i32" | "u8";
  shape: number[];
  offset: number;
}

interface Row {
  source: string;
  first: number;
  count: number;
}

type Alternative =
  | {
      kind: "mix";
      alpha: number;
      beta: number;
      other: string | null;
      normaliser: string | null;
    }
  | { kind: "eta_mix"; other: string }
  | { kind: "scores"; array: string }
  | { kind: "uniform" };

interface MethodEntry {
  name: string;
  label_formula: string;
  alternative_formula: string;
  source: string | null;
  hyper: Record<string, unknown>;
  refusal: string | null;
  title?: string;
  equation?: string;
  note?: string | null;
  alternative: Alternative | null;
}

interface CurveLines {
  label_gradient: (number | null)[];
  other_gradient: (number | null)[];
  label_target: (number | null)[];
  other_target: (number | null)[];
}

interface CurveData {
  p: number[];
  methods: Record<string, CurveLines>;
  setting: string;
}

interface Header {
  format: number;
  title: string;
  provenance: Record<string, string | null | Record<string, string>>;
  vocabulary_size: number;
  texts: string[];
  special: number[];
  rows: Row[];
  roles: string[];
  top: number;
  eta_stops: number[];
  methods: MethodEntry[];
  default_method: string;
  default_eta: number;
  curve: CurveData;
}

type Arrays = Record<string, Float32Array | Int32Array | Uint8Array>;

interface State {
  method: string;
  stop: number;
  colour: string;
  token: number | null;
  view: string;
  log: boolean;
}

/** Distributions of one label over its candidates; the last entry is the rest. */
interface Distributions {
  a: number;
  b: number;
  p: Float64Array;
  alternative: Float64Array | null;
  target: Float64Array;
  gradient: Float64Array;
}

/** A quantity that colours the labels. */
interface Measure {
  key: string;
  name: string;
  question: string;
  ramp: string;
  values: Float32Array;
  low: number;
  high: number;
}

interface CurveMark {
  p: number;
  gradient: number;
  target: number;
  text: string;
}
