// Reads what `captune` writes for other languages, and answers with the exported network. FORMAT.md says why each line
// is as it is. Needs no package but an onnxruntime, which the caller hands over: onnxruntime-node or onnxruntime-web.

const BLANK = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;
const ALPHANUMERIC = /[\p{L}\p{N}]/u;
const MARK = /[\p{Mn}\p{Mc}]/u;
const ASCII = /^[\0-\x7f]*$/;
const JOINER = "\u200d";

/** What makes ids of captions, by `ids`. specification: `text` of classifier.json; vocabulary: words.json. */
export function textOf(specification, vocabulary) {
  if (specification.pieces) return new WordPieces(specification, vocabulary);
  return specification.byte_pairs ? new BytePairs(specification, vocabulary) : new Text(specification, vocabulary);
}

/** Captions to ids of words, see `textOf`. */
export class Text {
  constructor(specification, vocabulary) {
    Object.assign(this, specification);
    this.steps = specification.steps.map((step) => [new RegExp(step.pattern, "gu"), step.replacement]);
    this.stopWords = new Set(specification.stop_words);
    this.seen = new Map(Object.entries(vocabulary.ids));
    this.known = new Map(vocabulary.words.map((word, place) => [word, place + specification.first_word]));
    this.parts = specification.characters ? new WordBreaks(specification.word_breaks) : null;
  }

  /** Words of a caption, in lower case and without stop words, before they are stemmed. */
  words(caption) {
    let text = (this.marks ? composed(caption) : caption).replaceAll("\u2019", "'").toLowerCase();
    for (const [pattern, replacement] of this.steps) text = text.replace(pattern, replacement);
    let words = text.split(BLANK).map((token) => this.bare(token));
    if (this.parts) words = words.flatMap((word) => this.parts.pieces(word));
    return words.filter((word) => word && !(this.remove_stop_words && this.stopWords.has(word)));
  }

  /** The id of a word that `words` gave. */
  id(word) {
    return this.seen.get(word) ?? this.known.get(this.stem ? stem(word, this.longest_stemmed) : word) ?? this.unknown;
  }

  /** What the network reads: `width` ids. */
  ids(caption) {
    const ids = new Int32Array(this.width).fill(this.padding);
    ids.set(this.words(caption).slice(0, this.max_tokens).map((word) => this.id(word)));
    return ids;
  }

  bare(token) {
    const characters = [...token];
    let end = characters.findLastIndex((character) => ALPHANUMERIC.test(character)) + 1;
    if (!end) return "";
    const follows = () => MARK.test(characters[end]) || (characters[end] === JOINER && MARK.test(characters[end - 1]));
    while (this.marks && end < characters.length && follows()) end++;
    let start = 0;
    const stays = () => characters[start] === "'" && this.stopWords.has(characters.slice(start, end).join(""));
    while (!ALPHANUMERIC.test(characters[start]) && !stays()) start++;
    return characters.slice(start, end).join("");
  }
}

const WHITE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const EACH_WHITE = new RegExp(`[${WHITE}]`, "gu");
const ALL_WHITE = new RegExp(`[${WHITE}]+`, "gu");
const PUNCTUATION = "\\p{P}!-\\/:-@\\[-`{-~";
const WORD_OR_MARK = new RegExp(`[${PUNCTUATION}]|[^${WHITE}${PUNCTUATION}]+`, "gu");
const CLIPS_WORD = new RegExp(`'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^${WHITE}\\p{L}\\p{N}]+`, "gu");
const UNSEEN = /(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}\ufffd]/gu;
const IDEOGRAPH =
  /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu;
const lowered = (text) => [...text].map((character) => character.toLowerCase()).join(""); // no letter looks at the next

/** What a pretrained tower reads: a start, ids of pieces of words, an end. */
class Pieces {
  constructor(specification, vocabulary) {
    Object.assign(this, specification);
    this.places = new Map(vocabulary.pieces.map((piece, place) => [piece.replace(" ", ""), place + specification.first_piece]));
  }

  ids(caption) {
    const ids = new Int32Array(this.width).fill(this.padding);
    const codes = this.words(caption).flatMap((word) => this.codes(word));
    if (codes.length) ids.set([this.start, ...codes.slice(0, this.width - 2), this.end]);
    return ids;
  }
}

/** BERT's: of each word the longest pieces from its start on. */
class WordPieces extends Pieces {
  words(caption) {
    const { clean_text, handle_chinese_chars, strip_accents, lowercase } = this.pieces;
    let text = clean_text ? caption.replace(UNSEEN, "").replace(EACH_WHITE, " ") : caption;
    if (handle_chinese_chars) text = text.replace(IDEOGRAPH, " $& ");
    if (strip_accents ?? lowercase) text = text.normalize("NFD").replace(/\p{Mn}/gu, "");
    if (lowercase) text = lowered(text);
    return text.match(WORD_OR_MARK) ?? [];
  }

  codes(word) {
    const characters = [...word];
    const codes = [];
    let start = characters.length > this.longest_word ? Infinity : 0;
    while (start < characters.length) {
      let end = characters.length;
      const code = () => this.places.get((start ? "##" : "") + characters.slice(start, end).join(""));
      while (end > start && code() === undefined) end--;
      if (end === start) return [this.unknown];
      codes.push(code());
      start = end;
    }
    return codes.length ? codes : [this.unknown];
  }
}

/** CLIP's: bytes of a word, joined two by two in the order of the vocabulary. */
class BytePairs extends Pieces {
  constructor(specification, vocabulary) {
    super(specification, vocabulary);
    const pairs = vocabulary.pieces.filter((entry) => entry.includes(" "));
    this.ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
    const shown = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    let others = 256;
    this.characters = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(shown(byte) ? byte : others++));
  }

  words(caption) {
    return lowered(caption.normalize("NFC").replace(ALL_WHITE, " ")).match(CLIPS_WORD) ?? [];
  }

  codes(word) {
    let parts = [...new TextEncoder().encode(word)].map((byte) => this.characters[byte]);
    parts.push(parts.pop() + this.byte_pairs.end_of_word);
    for (;;) {
      const ranks = parts.map((part, place) => this.ranks.get(`${part} ${parts[place + 1]}`) ?? Infinity);
      const best = ranks.reduce((least, rank) => Math.min(least, rank), Infinity);
      if (best === Infinity) return parts.map((part) => this.places.get(part) ?? this.unknown);
      const joined = []; // all of the best at once: what they are joined to stands behind them in the vocabulary
      for (let place = 0; place < parts.length; place++) {
        joined.push(ranks[place] === best ? parts[place] + parts[++place] : parts[place]);
      }
      parts = joined;
    }
  }
}

function composed(caption) {
  if (ASCII.test(caption)) return caption;
  const visible = caption.replaceAll("\u200b", " ").replace(/(?![\u200c\u200d])\p{Default_Ignorable_Code_Point}/gu, "");
  return visible.normalize("NFC").toLowerCase().normalize("NFC");
}

/** Words of scripts without blanks are parted at the boundaries of Unicode's UAX 29, which knows no dictionary. */
class WordBreaks {
  constructor({ without_blanks, classes }) {
    this.withoutBlanks = without_blanks;
    this.classes = Object.entries(classes);
  }

  pieces(word) {
    const characters = [...word];
    if (!characters.some((character) => within(this.withoutBlanks, character.codePointAt(0)))) return [word];
    const kinds = characters.map((character) => this.classOf(character.codePointAt(0)));
    const pieces = [""];
    characters.forEach((character, place) => {
      if (place && isBoundary(kinds, place, characters)) pieces.push("");
      pieces[pieces.length - 1] += character;
    });
    return pieces.filter((piece) => ALPHANUMERIC.test(piece));
  }

  classOf(code) {
    return this.classes.find(([, ranges]) => within(ranges, code))?.[0] ?? "Other";
  }
}

const within = (ranges, code) => ranges.some(([first, last]) => first <= code && code <= last);

function isBoundary(kinds, place, characters) {
  const ignored = (kind) => kind === "Extend" || kind === "Format" || kind === "ZWJ";
  const next = kinds[place];
  if (kinds[place - 1] === "ZWJ" && /\p{Extended_Pictographic}/u.test(characters[place])) return false; // WB3c
  if (ignored(next)) return false; // WB4
  let before = place - 1;
  while (ignored(kinds[before])) before--;
  if (before < 0) return false;
  const [beforeLast, last, afterNext] = [kinds[before - 1], kinds[before], kinds[place + 1]];
  const letter = (kind) => kind === "ALetter" || kind === "Hebrew_Letter";
  const word = (kind) => letter(kind) || kind === "Numeric" || kind === "Katakana";
  const between = (kind, own) => kind === own || kind === "MidNumLet" || kind === "Single_Quote";
  if (letter(last) && letter(next)) return false; // WB5
  if (characters[before] === "'" && /[aeiou\xe0-\xe2\xe8-\xea\xec-\xee\xf2-\xf4\xf9-\xfb]/.test(characters[place])) return false;
  if (letter(last) && between(next, "MidLetter") && letter(afterNext)) return false; // WB6
  if (letter(beforeLast) && between(last, "MidLetter") && letter(next)) return false; // WB7
  if (last === "Hebrew_Letter" && next === "Single_Quote") return false; // WB7a
  if (last === "Hebrew_Letter" && next === "Double_Quote" && afterNext === "Hebrew_Letter") return false; // WB7b
  if (beforeLast === "Hebrew_Letter" && last === "Double_Quote" && next === "Hebrew_Letter") return false; // WB7c
  if ((letter(last) || last === "Numeric") && next === "Numeric") return false; // WB8, WB9
  if (last === "Numeric" && letter(next)) return false; // WB10
  if (beforeLast === "Numeric" && between(last, "MidNum") && next === "Numeric") return false; // WB11
  if (last === "Numeric" && between(next, "MidNum") && afterNext === "Numeric") return false; // WB12
  if (last === "Katakana" && next === "Katakana") return false; // WB13
  if ((word(last) || last === "ExtendNumLet") && next === "ExtendNumLet") return false; // WB13a
  if (last === "ExtendNumLet" && word(next)) return false; // WB13b
  let flags = 0; // WB15, WB16
  while (kinds[before - flags] === "Regional_Indicator") flags++;
  return flags % 2 === 0;
}

const IRREGULAR = new Map(
  Object.entries({
    skies: "sky", sky: "sky", dying: "die", lying: "lie", tying: "tie", news: "news", innings: "inning",
    inning: "inning", outings: "outing", outing: "outing", cannings: "canning", canning: "canning", howe: "howe",
    proceed: "proceed", exceed: "exceed", succeed: "succeed",
  }),
);
const STEP_2 = Object.entries({
  ational: "ate", tional: "tion", enci: "ence", anci: "ance", izer: "ize", bli: "ble", alli: "al", entli: "ent",
  eli: "e", ousli: "ous", ization: "ize", ation: "ate", ator: "ate", alism: "al", iveness: "ive", fulness: "ful",
  ousness: "ous", aliti: "al", iviti: "ive", biliti: "ble", fulli: "ful",
});
const STEP_3 = Object.entries({ icate: "ic", ative: "", alize: "al", iciti: "ic", ical: "ic", ful: "", ness: "" });
const STEP_4 =
  "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize".split(" ").map((end) => [end, ""]);

/** Porter's stem (1980) of a word in lower case, with the departures that FORMAT.md lists. */
export function stem(word, longest = 40) {
  if ([...word].length > longest) return word;
  if (IRREGULAR.has(word)) return IRREGULAR.get(word);
  if ([...word].length <= 2) return word;
  word = withoutPlural(word);
  word = withoutPast(word);
  const root = word.slice(0, -1);
  if (word.endsWith("y") && [...root].length > 1 && consonants(root).at(-1)) word = root + "i";
  word = step2(word);
  word = replaced(word, STEP_3, (root) => measure(root) > 0);
  word = replaced(word, STEP_4, (root, end) => measure(root) > 1 && (end !== "ion" || /[st]$/.test(root)));
  if (word.endsWith("e")) {
    const root = word.slice(0, -1);
    if (measure(root) > 1 || (measure(root) === 1 && !isShort(root))) word = root;
  }
  return word.endsWith("ll") && measure(word.slice(0, -1)) > 1 ? word.slice(0, -1) : word;
}

function withoutPlural(word) {
  if (word.endsWith("ies") && [...word].length === 4) return word.slice(0, -1);
  return replaced(word, [["sses", "ss"], ["ies", "i"], ["ss", "ss"], ["s", ""]], () => true);
}

function withoutPast(word) {
  if (word.endsWith("ied")) return word.slice(0, [...word].length === 4 ? -1 : -2);
  if (word.endsWith("eed")) return measure(word.slice(0, -3)) > 0 ? word.slice(0, -1) : word;
  const end = ["ed", "ing"].find((end) => word.endsWith(end) && !consonants(word.slice(0, -end.length)).every(Boolean));
  if (!end) return word;
  const root = word.slice(0, -end.length);
  if (/(at|bl|iz)$/.test(root)) return root + "e";
  const [beforeLast, last] = [...root].slice(-2);
  if (last && beforeLast === last && consonants(root).at(-1)) return /[lsz]$/.test(root) ? root : root.slice(0, -last.length);
  return measure(root) === 1 && isShort(root) ? root + "e" : root;
}

function step2(word) {
  if (word.endsWith("alli") && measure(word.slice(0, -4)) > 0) return step2(word.slice(0, -2));
  if (STEP_2.some(([end]) => word.endsWith(end))) return replaced(word, STEP_2, (root) => measure(root) > 0);
  return word.endsWith("logi") && measure(word.slice(0, -3)) > 0 ? word.slice(0, -1) : word;
}

/** The first of the endings that the word has decides, also where it may not be replaced. */
function replaced(word, endings, may) {
  const ending = endings.find(([end]) => word.endsWith(end));
  if (!ending) return word;
  const root = word.slice(0, word.length - ending[0].length);
  return may(root, ending[0]) ? root + ending[1] : word;
}

/** Of each character whether it is a consonant: no vowel, nor a y behind a consonant. */
function consonants(word) {
  const flags = [];
  for (const letter of word) flags.push(letter === "y" ? !(flags.at(-1) ?? false) : !"aeiou".includes(letter));
  return flags;
}

/** How often a consonant follows a vowel. */
const measure = (word) => consonants(word).filter((flag, place, flags) => flag && flags[place - 1] === false).length;

/** Ends in consonant, vowel, consonant, the last not w, x or y; or is a vowel and a consonant. */
function isShort(word) {
  const flags = consonants(word);
  const [first, second, third] = flags.slice(-3);
  if (flags.length === 2) return !first && second;
  return flags.length > 2 && first && !second && third && !/[wxy]$/.test(word);
}

/** Probabilities of the network to calibrated ones and labels. specification: `rule` of classifier.json. */
export class Rule {
  constructor(specification, labels) {
    Object.assign(this, specification);
    this.labels = labels;
  }

  /** raw: Float32Array of one row, as the network gives it. labels: those that are given, in the order of ids. */
  answer(raw) {
    const probabilities = raw.map((p) => this.calibrated(p)); // a Float32Array rounds what it is given
    const order = [...raw.keys()].sort((a, b) => raw[b] - raw[a]); // stable: of equal ones the first label
    const ranked = order.map((label) => probabilities[label]);
    const chosen = new Set(order.slice(0, Math.max(1, this.count(ranked))));
    return { raw, probabilities, labels: this.labels.filter((_, label) => chosen.has(label)) };
  }

  calibrated(p) {
    if (this.scale === 1 && this.shift === 0) return p;
    const within = Math.min(Math.max(p, this.least), this.most);
    return 1 / (1 + Math.exp(-(this.scale * (Math.log(within) - Math.log1p(-within)) + this.shift)));
  }

  count(ranked) {
    if (this.kind === "expected_f1") return this.expectedF1(ranked).reduce((best, f1, place, all) => (f1 > all[best] ? place : best), 0) + 1;
    const value = Math.fround(this.value);
    const largest = this.kind === "relative" ? Math.max(ranked[0], this.tiny) : 1;
    return ranked.filter((p) => Math.fround(p / largest) >= value).length;
  }

  /** Of giving the first 1, 2, ... labels. */
  expectedF1(ranked) {
    const candidates = ranked.slice(0, this.nodes.length);
    const others = ranked.slice(this.nodes.length).reduce((sum, p) => sum + p, 0);
    const expected = candidates.map(() => 0);
    this.nodes.forEach((t, node) => {
      const absent = candidates.map((p) => 1 - p * (1 - t));
      const none = absent.reduce((product, p) => product * p, 1) * Math.exp((t - 1) * others);
      let sum = 0;
      candidates.forEach((p, place) => {
        sum += p / absent[place];
        expected[place] += 2 * this.weights[node] * t ** (place + 1) * sum * none;
      });
    });
    return expected;
  }
}

/** RGB pixels (height * width * 3 bytes) to what the network reads (side * side * 3), as Pillow's bilinear filter. */
export function square(pixels, width, height, side) {
  if (height > side && height - side > 2 * (width - side)) {
    const down = resampled(pixels, width, height, side, width * 3, 3);
    return resampled(down, side, width, side, 3, width * 3);
  }
  const across = resampled(pixels, height, width, side, 3, width * 3);
  return resampled(across, side, height, side, side * 3, 3);
}

/** One axis at a time: each of `lines` lines, `size` pixels `step` bytes apart, becomes `side` pixels. */
function resampled(pixels, lines, size, side, step, lineStep) {
  if (size === side) return pixels;
  const out = new Uint8Array(lines * side * 3);
  const outLineStep = step === 3 ? side * 3 : 3;
  const scale = size / side;
  const support = Math.max(1, scale);
  for (let place = 0; place < side; place++) {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(size, Math.trunc(centre + support + 0.5));
    const shares = [];
    for (let k = first; k < end; k++) shares.push(Math.max(0, 1 - Math.abs((k - centre + 0.5) * (1 / support))));
    const total = shares.reduce((sum, share) => sum + share, 0);
    const weights = shares.map((share) => Math.trunc(0.5 + (share / total) * 2 ** 22));
    for (let line = 0; line < lines; line++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** 21;
        weights.forEach((weight, k) => (sum += weight * pixels[line * lineStep + (first + k) * step + channel]));
        out[line * outLineStep + place * step + channel] = Math.min(255, Math.floor(sum / 2 ** 22));
      }
    }
  }
  return out;
}

/** A network with all that is needed to use it. */
export class Classifier {
  /** contents: classifier.json; vocabulary: words.json or null; session: of onnxruntime; ort: onnxruntime itself. */
  constructor(contents, vocabulary, session, ort) {
    Object.assign(this, { contents, session, ort });
    this.text = contents.text && textOf(contents.text, vocabulary);
    this.rule = new Rule(contents.rule, contents.labels);
  }

  /** With Node: folder: that holds classifier.json; model: an .onnx file. */
  static async load(folder, model, ort) {
    const { readFile } = await import("node:fs/promises");
    const json = async (name) => JSON.parse(await readFile(`${folder}/${name}`, "utf8"));
    const contents = await json("classifier.json");
    const vocabulary = contents.text && (await json("words.json"));
    return new Classifier(contents, vocabulary, await ort.InferenceSession.create(model), ort);
  }

  /** captions: strings; pictures: Uint8Arrays of `square`; as many of each as the network reads. An answer a row. */
  async answer({ captions, pictures }) {
    const rows = (captions ?? pictures).length;
    const feeds = {};
    if (this.text) {
      const ids = new Int32Array(rows * this.text.width);
      captions.forEach((caption, row) => ids.set(this.text.ids(caption), row * this.text.width));
      feeds.caption = new this.ort.Tensor("int32", ids, [rows, this.text.width]);
    }
    if (this.contents.image) {
      const { side } = this.contents.image;
      const pixels = new Uint8Array(rows * side * side * 3);
      pictures.forEach((picture, row) => pixels.set(picture, row * side * side * 3));
      feeds.image = new this.ort.Tensor("uint8", pixels, [rows, side, side, 3]);
    }
    const { data } = (await this.session.run(feeds)).probabilities;
    const width = this.contents.labels.length;
    return Array.from({ length: rows }, (_, row) => this.rule.answer(data.slice(row * width, (row + 1) * width)));
  }
}
