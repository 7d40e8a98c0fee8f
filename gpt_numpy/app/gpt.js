// The GPT of a run in JavaScript, for the browser that shows the report.  The original, with every
// formula derived, is in Python: gpt_numpy/model.py, minigrad/ops/, sample.py and tokenizer.py.
//
// The model reads one token at a time.  No position sees a later one, so the keys and values of earlier
// tokens are cached, as in gpt_numpy/scale/decoder.py.  The letters T C H D V are those of model.py.
"use strict";

// ---- the ops: minigrad/ops has a page for each
function linear(x, weight, bias) { // x (I,), weight (O, I), bias (O,) → W x + b (O,)
  const I = x.length, y = new Float32Array(weight.length / I);
  for (let o = 0, w = 0; o < y.length; o++, w += I) {
    let a = 0, b = 0, c = 0, d = 0, i = 0; // four sums, which a processor adds side by side
    for (; i + 3 < I; i += 4) {
      a += x[i] * weight[w + i], b += x[i + 1] * weight[w + i + 1];
      c += x[i + 2] * weight[w + i + 2], d += x[i + 3] * weight[w + i + 3];
    }
    for (; i < I; i++) a += x[i] * weight[w + i];
    y[o] = a + b + c + d + (bias ? bias[o] : 0);
  }
  return y;
}

function layer_norm(x, weight, bias, eps) { // (C,) → (C,)
  const mean = x.reduce((sum, v) => sum + v, 0) / x.length;
  const variance = x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length;
  const rstd = (variance + eps) ** -0.5;
  return x.map((v, c) => (v - mean) * rstd * weight[c] + (bias ? bias[c] : 0));
}

function gelu(x) {
  return x.map(v => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))));
}

function softmax(scores) {
  const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const e = Float64Array.from(scores, score => Math.exp(score - most));
  const total = e.reduce((a, b) => a + b, 0);
  return e.map(v => v / total);
}

function attention(q, k, v, n_head) { // the newest q (C,), all k and v (T, C) → y (C,), p: H of (T,)
  const C = q.length, D = C / n_head, T = k.length / C, y = new Float32Array(C), p = [];
  for (let h = 0; h < n_head; h++) {
    const scores = new Float64Array(T);
    for (let t = 0; t < T; t++)
      for (let c = h * D; c < (h + 1) * D; c++) scores[t] += q[c] * k[t * C + c] / Math.sqrt(D);
    p.push(softmax(scores));
    for (let t = 0; t < T; t++)
      for (let c = h * D; c < (h + 1) * D; c++) y[c] += p[h][t] * v[t * C + c];
  }
  return [y, p];
}

const add = (x, y) => x.map((v, i) => v + y[i]);

// ---- the model: gpt_numpy/model.py
class GPT {
  constructor(config, state) { // state: name → Float32Array, as state_dict() names them
    const size = config.block_size * config.n_embd;
    Object.assign(this, {config, state, length: 0}); // length: how many tokens are in
    this.cache = Array.from({length: config.n_layer}, () => [0, 0].map(() => new Float32Array(size)));
  }

  linear(x, name) {
    return linear(x, this.state[`${name}.weight`], this.state[`${name}.bias`]);
  }

  norm(x, name) {
    return layer_norm(x, this.state[`${name}.weight`], this.state[`${name}.bias`], this.config.eps);
  }

  attend(x, layer) {
    const attn = `h.${layer}.attn`, start = this.length * x.length, stop = start + x.length;
    const [keys, values] = this.cache[layer];
    keys.set(this.linear(x, `${attn}.key`), start);
    values.set(this.linear(x, `${attn}.value`), start);
    const q = this.linear(x, `${attn}.query`);
    const [y, p] = attention(q, keys.subarray(0, stop), values.subarray(0, stop), this.config.n_head);
    this.looked.push(...p);
    return this.linear(y, `${attn}.proj`);
  }

  block(x, layer) { // talk, then think
    x = add(x, this.attend(this.norm(x, `h.${layer}.ln_1`), layer));
    const fc = this.linear(this.norm(x, `h.${layer}.ln_2`), `h.${layer}.mlp.fc`);
    return add(x, this.linear(gelu(fc), `h.${layer}.mlp.proj`));
  }

  forward(id) { // the next token of the text → logits (V,); `looked` is then p of every head
    const C = this.config.n_embd, row = (name, i) => this.state[name].subarray(i * C, (i + 1) * C);
    let x = add(row("wte.weight", id), row("wpe.weight", this.length));
    this.looked = [];
    for (let layer = 0; layer < this.config.n_layer; layer++) x = this.block(x, layer);
    this.length++;
    return linear(this.norm(x, "ln_f"), this.state["wte.weight"]);
  }
}

class Reader { // continued() of gpt_numpy/sample.py, for a text that may also be cut
  constructor(model) { // windows: where each one begins, and how long the text was then
    Object.assign(this, {model, ids: [], windows: [{from: 0, since: 0}]});
  }

  cut(length) { // forget all but the first tokens
    const before = this.windows.length;
    this.ids.length = length;
    while (this.windows.at(-1).since > length) this.windows.pop();
    const inWindow = this.windows.length < before ? 0 : length - this.windows.at(-1).from;
    this.model.length = Math.min(this.model.length, inWindow);
  }

  *read(id) { // yields after every forward pass; at the end, `logits` are the scores of the next token
    const size = this.model.config.block_size, end = this.ids.push(id);
    if (end - this.windows.at(-1).from > size) { // full: begin again with the newest half
      this.windows.push({from: end - Math.max(1, Math.floor(size / 2)), since: end});
      this.model.length = 0;
    }
    for (const {from} = this.windows.at(-1); from + this.model.length < end; yield)
      this.logits = this.model.forward(this.ids[from + this.model.length]);
  }
}

// ---- sampling: gpt_numpy/sample.py, minigrad/random.py
function probabilities(logits, {temperature = 1, top_k = Infinity, top_p = 1} = {}) { // (V,) → (V,)
  if (temperature === 0) [temperature, top_k] = [1, 1];
  const p = softmax(Float64Array.from(logits, score => score / temperature));
  const order = [...p.keys()].sort((i, j) => logits[j] - logits[i]); // likeliest first
  const kept = order.slice(0, top_k), total = kept.reduce((sum, i) => sum + p[i], 0);
  const chosen = new Float64Array(p.length);
  let before = 0; // the probability of all likelier tokens
  for (const i of kept) {
    if (top_p < 1 && before >= top_p - 1e-6 && before > 0) break;
    chosen[i] = p[i];
    before += p[i] / total;
  }
  const sum = chosen.reduce((a, b) => a + b, 0);
  return chosen.map(v => v / sum);
}

function sample(p, u) { // p divides [0, 1) into an interval per token: return the one that u falls into
  const cdf = [];
  p.forEach((v, i) => cdf.push((cdf[i - 1] ?? 0) + v));
  return cdf.filter(end => end <= u * cdf.at(-1)).length;
}

function uniform(seed, n) { // random number n of a seed, as NumPy's Philox draws it for minigrad
  const mask = (1n << 64n) - 1n;
  let [a, b, c, d] = [BigInt(n >> 2) + 1n, 0n, 0n, 3n], [k, l] = [BigInt(seed), 0n];
  for (let round = 0; round < 10; round++) {
    const x = a * 0xD2E7470EE14C6C93n, y = c * 0xCA5A826395121157n;
    [a, b, c, d] = [y >> 64n ^ b ^ k, y & mask, x >> 64n ^ d ^ l, x & mask];
    [k, l] = [k + 0x9E3779B97F4A7C15n & mask, l + 0xBB67AE8584CAA73Bn & mask];
  }
  return Number([a, b, c, d][n & 3] >> 11n) * 2 ** -53;
}

// ---- tokenizers: gpt_numpy/tokenizer.py, gpt_numpy/bpe.py
class CharTokenizer {
  constructor({points}) { // the code point of each id
    this.bytes = points.map(point => new TextEncoder().encode(String.fromCodePoint(point)));
    this.ids = new Map(points.map((point, id) => [point, id]));
  }

  encode(text) { // a character that the model does not know is left out
    return [...text].map(c => this.ids.get(c.codePointAt(0))).filter(id => id !== undefined);
  }
}

const S = "\\p{White_Space}", LN = "\\p{L}\\p{N}"; // PATTERN of bpe.py, where \s is White_Space
const PATTERN = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${S}${LN}]+|${S}+$|${S}+(?![^${S}])|${S}`, "gu");

class BPETokenizer {
  constructor({tokens, ranked, added}) { // bytes as characters; the ids in the order of merging
    this.bytes = tokens.map(token => Uint8Array.from(token, c => c.charCodeAt(0)));
    this.ranks = new Map(ranked.map((id, rank) => [tokens[id], rank]));
    this.ranked = ranked;
    this.added = new Map(added); // text → id
  }

  merged(word) { // the ids of a word: merge the neighbours of the lowest rank, again and again
    const parts = Array.from(new TextEncoder().encode(word), byte => String.fromCharCode(byte));
    const rank = i => i + 1 < parts.length && this.ranks.get(parts[i] + parts[i + 1]) || Infinity;
    for (;;) {
      let best = 0;
      for (let i = 1; i < parts.length; i++) if (rank(i) < rank(best)) best = i;
      if (rank(best) === Infinity) return parts.map(part => this.ranked[this.ranks.get(part)]);
      parts.splice(best, 2, parts[best] + parts[best + 1]);
    }
  }

  encode(text) { // added tokens are cut out of the text first, the longest one of a place
    const names = [...this.added.keys()].sort((a, b) => b.length - a.length);
    const literally = names.map(name => name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"));
    const parts = names.length ? text.split(new RegExp(`(${literally.join("|")})`)) : [text];
    const inWords = part => (part.match(PATTERN) ?? []).flatMap(word => this.merged(word));
    return parts.flatMap((part, i) => i % 2 ? this.added.get(part) : inWords(part));
  }
}
