// What a visitor does with the model of gpt.js: type a text, see it coloured, let it continue.  The
// work is done in slices of a few milliseconds, so the page never blocks.  Text never becomes markup.
"use strict";

const SLICE = 12; // milliseconds of work, after which the page has its turn
const MOST = 1000; // tokens that the model writes at most
const TOP_K = [1, 2, 3, 5, 10, 20, 40];

let since = 0; // when the page had its last turn
async function giveTurn() { // let the page draw and listen, if it has waited long enough
  if (performance.now() - since < SLICE) return;
  await new Promise(done => setTimeout(done));
  since = performance.now();
}

// ---- the weights ----------------------------------------------------------------------------------

const HALF = Float32Array.from({length: 1 << 16}, (_, bits) => { // float16 → number
  const exponent = bits >> 10 & 31, digits = bits & 1023;
  return (bits >> 15 ? -1 : 1) * (exponent ? (1024 + digits) * 2 ** (exponent - 25) : digits * 2 ** -24);
});

async function unpacked(element, sizes) { // name → Float32Array: page_model.py packs them
  const text = atob(element.textContent), deflated = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) deflated[i] = text.charCodeAt(i);
  const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer()), n = bytes.length / 2;
  const state = {};
  let at = 0;
  for (const [name, size] of sizes) {
    const weight = state[name] = new Float32Array(size);
    for (let i = 0; i < size; i++, at++) weight[i] = HALF[bytes[at] | bytes[n + at] << 8];
    await giveTurn();
  }
  return state;
}

// ---- tokens as they are shown -----------------------------------------------------------------------

// A character that a page would obey instead of showing it: CONTROL of report.py.
const safe = text => text.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

function written(bytes) { // one token, in hexadecimal digits where it is a part of a character
  try {
    return safe(new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(bytes));
  } catch {
    return `⟨${Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("")}⟩`;
  }
}

function pieces(tokenizer, ids) { // a character of several tokens belongs to the last
  const decoder = new TextDecoder("utf-8", {ignoreBOM: true});
  return ids.map(id => safe(decoder.decode(tokenizer.bytes[id], {stream: true})));
}

function markLine(span) { // so that one can see and choose the end of a line
  span.classList.toggle("line", span.textContent.startsWith("\n"));
}

const NAMES = {" ": "space", "\n": "new line", "\t": "tab", "…": "part of a character"};
const aloud = text => NAMES[text] ?? shown(text); // for a screen reader

const best = (scores, n) => { // the ids of the n largest, the largest first
  const found = [];
  scores.forEach((score, i) => {
    if (found.length === n && score <= scores[found.at(-1)]) return;
    const place = found.findIndex(j => scores[j] < score);
    found.splice(place < 0 ? found.length : place, 0, i);
    found.length = Math.min(n, found.length);
  });
  return found;
};

// ---- the visit ---------------------------------------------------------------------------------------

async function talk({config, sizes, tokenizer: facts, prompt: first}) {
  const tokenizer = facts.points ? new CharTokenizer(facts) : new BPETokenizer(facts);
  const versions = []; // of the model: {step, loss, reader, records, isReady}
  for (const element of document.querySelectorAll("script.weights")) {
    const reader = new Reader(new GPT(config, await unpacked(element, sizes)));
    versions.push({step: +element.dataset.step, loss: +element.dataset.valLoss, reader, records: []});
    element.remove();
  }
  let version = versions[0]; // the best one; the other one comes second
  let continuation = [], nOwn = 0; // the ids that it wrote; how many are the visitor's, before them
  let job = 0, isGoing = false;
  let chosen = null, head = null; // the token and the head that are looked at

  const own = () => {
    const ids = tokenizer.encode($("prompt").value);
    return ids.length ? ids : first; // nothing: what samples begin with
  };

  async function wanted(mine) { // give the page its turn; return whether this job is still the newest
    await giveTurn();
    return mine === job;
  }

  // Let a version read the ids, and make a record of each: {id, loss, guesses, from, looked}.  Tokens
  // that it has read already are kept; the last one of them is read again if its logits are gone.
  async function read(which, ids, mine, show = () => {}) {
    const {reader, records} = which;
    let same = 0;
    while (same < records.length && same < ids.length && records[same].id === ids[same]) same++;
    records.length = same;
    const begin = which.isReady && reader.ids.length === same ? same : Math.max(0, same - 1);
    reader.cut(begin);
    for (let i = begin; i < ids.length; i++) {
      if (i >= same) records.push(i ? {id: ids[i], ...expected(reader.logits, ids[i])} : {id: ids[i]});
      which.isReady = false;
      for (const _ of reader.read(ids[i])) if (!await wanted(mine)) return false;
      which.isReady = true;
      records[i].from = reader.windows.at(-1).from;
      records[i].looked = reader.model.looked.map(p => Float32Array.from(p));
      show();
    }
    return mine === job;
  }

  function expected(logits, id) { // its loss, and what would have been likelier
    const p = softmax(logits);
    return {loss: -Math.log(p[id]), guesses: best(logits, 3).map(i => [written(tokenizer.bytes[i]), p[i]])};
  }

  // ---- the text ----

  let spans = [], texts = [], drawn = [];
  function draw() {
    const records = version.records.filter(record => record.looked), ids = records.map(record => record.id);
    let same = 0;
    while (same < drawn.length && drawn[same] === records[same]) same++;
    texts = pieces(tokenizer, ids);
    spans.splice(same).forEach(span => span.remove());
    records.slice(same).forEach((record, k) => {
      const i = same + k, text = texts[i] || "…";
      const span = node($("theirs"), "span", text, {role: "option", id: `token-${i}`, "aria-label": aloud(text)});
      markLine(span);
      if (record.loss !== undefined) span.style.background = red(record.loss);
      span.onclick = () => choose(i);
      spans.push(span);
    });
    spans.forEach((span, i) => span.classList.toggle("own", i >= nOwn));
    drawn = records;
  }

  function choose(i, isAnnounced = true) {
    chosen = i;
    point(spans, i);
    spans.forEach((span, j) => span.setAttribute("aria-selected", i === j));
    $("theirs").setAttribute("aria-activedescendant", `token-${i}`);
    const {loss, guesses} = drawn[i];
    if (isAnnounced) {
      inUse = true;
      spans[i].scrollIntoView({block: "nearest"});
      $("their-guess").textContent = loss === undefined
        ? `“${shown(texts[i])}” is the first token: the model has nothing to guess it from.`
        : judged(texts[i], loss, guesses);
    }
    showHeads();
  }

  $("theirs").onkeydown = event => {
    const moves = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity};
    if (!(event.key in moves) || !spans.length) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(spans.length - 1, (chosen ?? spans.length - 1) + moves[event.key])));
  };

  // ---- the heads ----

  let canvases = [], sentence = [];
  function showHeads() {
    const {from, looked} = drawn[chosen], T = chosen + 1 - from;
    $("their-head").textContent = `Where the heads looked from “${shown(texts[chosen])}”`;
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--see");
    if (!canvases.length) canvases = headButtons($("their-heads"), config.n_layer, config.n_head, 120, 40, showHead);
    canvases.forEach((canvas, h) => {
      const pen = canvas.getContext("2d"), wide = canvas.width / T;
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.fillStyle = `rgb(${ink})`;
      looked[h].forEach((p, t) => pen.fillRect(t * wide, 40 - 40 * Math.sqrt(p), Math.max(1, wide - 0.5), 40));
    });
    $("their-sentence").replaceChildren();
    sentence = texts.slice(from, chosen + 1).map((text, j) => {
      const span = node($("their-sentence"), "span", text || "…");
      markLine(span);
      span.onclick = () => choose(from + j);
      return span;
    });
    const strongest = looked.map(p => Math.max(...p)); // at first, the head that is most decided
    showHead(head ?? strongest.indexOf(Math.max(...strongest)), head);
  }

  function showHead(which, kept = which) { // kept: the head that stays when another token is chosen
    head = kept;
    const {from, looked} = drawn[chosen], p = looked[which];
    press($("their-heads"), which);
    point(sentence, chosen - from);
    tint(sentence, p.map(weight => weight / Math.max(...p)));
    const most = best(p, 3).map(t => `“${shown(texts[from + t])}” ${p[t].toFixed(2)}`).join(", ");
    $("their-look").textContent = `${headName(which, config.n_head)} takes the most from ${most}.`;
  }

  // ---- what comes next ----

  const slider = name => +$(name).value;
  function options() {
    const k = slider("top-k"), top_k = k < TOP_K.length ? TOP_K[k] : Infinity;
    return {temperature: slider("temperature"), top_k, top_p: slider("top-p")};
  }

  const bars = Array.from({length: Math.min(8, config.vocab_size)}, () => {
    const button = node($("candidates"), "button"), name = node(button, "span", "", {class: "text"});
    const rail = node(button, "i"), bar = node(rail, "b"), mark = node(rail, "u");
    return {button, name, bar, mark, p: node(button, "span")};
  });
  function showNext() {
    const settings = options();
    for (const name of ["temperature", "top-p"]) $(`${name}-is`).textContent = slider(name).toFixed(2);
    $("top-k-is").textContent = settings.top_k === Infinity ? "all" : settings.top_k;
    $("top-k").setAttribute("aria-valuetext", $("top-k-is").textContent);
    if (!version.isReady) return;
    const {logits} = version.reader, before = softmax(logits), p = probabilities(logits, settings);
    let others = 1;
    best(logits, bars.length).forEach((id, i) => {
      const {button, name, bar, mark, p: cell} = bars[i], text = written(tokenizer.bytes[id]);
      name.textContent = shown(text);
      bar.style.width = `${100 * p[id]}%`;
      mark.style.left = `${100 * before[id]}%`;
      cell.textContent = p[id].toFixed(2);
      button.setAttribute("aria-label", `${aloud(text)}, probability ${p[id].toFixed(2)}: add it`);
      button.onclick = () => { stop(); continuation.push(id); refresh(); };
      others -= p[id];
    });
    const rest = config.vocab_size - bars.length;
    $("others").textContent = rest > 0 ? `${rest.toLocaleString("en")} others: ${Math.max(0, others).toFixed(2)}` : "";
  }

  // ---- reading and going on ----

  const perToken = ({records}, n) => records.slice(1, n).reduce((sum, {loss}) => sum + loss, 0) / (n - 1);
  async function refresh() { // read the text again, as far as it is new
    const mine = ++job, text = own();
    nOwn = text.length;
    const unknown = tokenizer.ids ? [...new Set($("prompt").value)].filter(c => !tokenizer.ids.has(c.codePointAt(0))) : [];
    const leftOut = unknown.length ? ` The model does not know these characters, so they are left out: ${safe(unknown.join(" "))}` : "";
    let last = performance.now();
    const show = () => { if (performance.now() - last > 150) { draw(); last = performance.now(); } };
    if (!await read(version, [...text, ...continuation], mine, show)) return;
    draw();
    if (chosen === null || chosen >= spans.length) chosen = spans.length - 1;
    choose(chosen, false);
    showNext();
    $("back").disabled = !continuation.length;
    const said = [];
    for (const each of versions) {
      if (text.length < 2) break;
      if (each !== version && !await read(each, text, mine)) return;
      const loss = perToken(each, text.length);
      said.push(`${loss.toFixed(2)} (perplexity ${perplexity(loss)}) after step ${each.step.toLocaleString("en")}`);
    }
    $("progress").textContent = (said.length ? `The loss of your text is ${said.join(", and ")}.` : "") + leftOut;
  }

  function going(is) {
    inUse = true;
    isGoing = is;
    $("go").textContent = is ? "❚❚ stop" : "▶ let it go on";
  }

  function stop() { // at once, because there is another text to read
    going(false);
    job++;
  }

  async function goOn(most) {
    const mine = ++job, text = own(), start = performance.now();
    let n = 0;
    nOwn = text.length;
    going(true);
    while (await read(version, [...text, ...continuation], mine)) {
      draw();
      showNext();
      $("theirs").scrollTop = $("theirs").scrollHeight;
      if (!isGoing || n === most || continuation.length >= MOST) break;
      const p = probabilities(version.reader.logits, options());
      continuation.push(sample(p, uniform(Math.floor(Math.abs(slider("seed"))) || 0, continuation.length)));
      n++;
      await new Promise(done => setTimeout(done, 15)); // so that one can watch it
    }
    if (mine !== job) return;
    const rate = number(1000 * n / (performance.now() - start), 2);
    going(false);
    choose(spans.length - 1, false);
    $("back").disabled = !continuation.length;
    $("progress").textContent = `It wrote ${n} token${n === 1 ? "" : "s"} in your browser, ${rate} a second.`;
    node($("progress"), "span", texts.slice(texts.length - n).join(""), {class: "aloud"});
  }

  $("go").onclick = () => {
    if (isGoing) return going(false);
    if (continuation.length >= MOST) continuation = [];
    goOn(MOST);
  };
  $("one").onclick = () => { if (isGoing) going(false); else goOn(1); };
  $("back").onclick = () => { stop(); continuation = []; chosen = null; refresh(); };
  $("prompt").oninput = () => { stop(); continuation = []; chosen = null; refresh(); };
  for (const name of ["temperature", "top-k", "top-p"]) $(name).oninput = () => { inUse = true; showNext(); };

  // ---- what there is to choose ----

  $("top-k").max = $("top-k").value = TOP_K.length;
  const passage = (run.passage?.tokens ?? []).join("").trimStart().slice(0, 120);
  const examples = [
    ["a text that it never saw", passage],
    ["the same, from the last word to the first", passage.split(/(\s+)/).reverse().join("")],
    ["nothing", ""],
  ];
  for (const [name, text] of passage ? examples : [])
    node($("examples"), "button", name).onclick = () => { $("prompt").value = text; $("prompt").oninput(); };
  if (versions.length > 1) {
    node($("versions-of-it"), "span", "the model", {class: "soft"});
    const buttons = [...versions].sort((a, b) => a.step - b.step).map(each => {
      const isBest = each === versions[0] ? ", its best" : "";
      const name = `after ${each.step.toLocaleString("en")} steps${isBest}: loss ${each.loss.toFixed(2)}`;
      const button = node($("versions-of-it"), "button", name);
      button.onclick = () => { stop(); version = each; mark(); refresh(); };
      return [each, button];
    });
    const mark = () => buttons.forEach(([each, button]) => button.setAttribute("aria-pressed", each === version));
    mark();
  }
  const source = $("gpt").textContent.trim();
  $("source").textContent = source;
  $("source-words").textContent = `This page runs these ${source.split("\n").length} lines of JavaScript. `
    + "The original is in Python: read gpt_numpy/model.py, and the ops in minigrad/ops/, with every formula derived.";
  $("prompt").value = passage;
  $("talk").hidden = false;
  await refresh();
}

const inPage = JSON.parse($("model").textContent);
if (inPage !== null) {
  $("speak").hidden = false;
  $("speak-words").textContent = inPage.missing
    ? `The model is not in this page: ${inPage.missing}. python examples/generate.py continues texts.`
    : "The model that this run trained is in this page, and works in your browser, without a network. It "
      + "answers no questions: it continues a text. Write one, see what surprises the model, let it go on, and "
      + "move the sliders while it writes.";
  if (!inPage.missing)
    talk(inPage).catch(error => { $("speak-words").textContent = `This browser cannot run the model: ${error}.`; });
}
