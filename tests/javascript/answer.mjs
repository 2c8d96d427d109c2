// node answer.mjs READER REQUEST: what the reader of a NAME.portable makes of a request, as JSON on standard output.
//
// READER is a captune.mjs. REQUEST is a file of JSON, with any of
//   stems:    words, answered by their stems
//   squares:  {width, height, side, pixels: base64}, answered by pixels in base64
//   folder:   a NAME.portable; then captions are answered by ids, raw (rows of the network's own probabilities) by
//             probabilities and ids of labels
//   model:    an .onnx file beside folder; then captions, and pictures (a raw file of uint8, side * side * 3 a row),
//             are answered by raw, probabilities and labels, batch by batch
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const reader = await import(pathToFileURL(process.argv[2]));
const request = JSON.parse(await readFile(process.argv[3], "utf8"));
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const plain = ({ raw, probabilities, labels }) => ({
  raw: [...raw],
  probabilities: [...probabilities],
  labels: labels.map((label) => label.id),
});
const out = {};
if (request.stems) out.stems = request.stems.map((word) => reader.stem(word));
if (request.squares)
  out.squares = request.squares.map(({ pixels, width, height, side }) =>
    Buffer.from(reader.square(bytes(pixels), width, height, side)).toString("base64"),
  );
if (request.folder) {
  const json = async (name) => JSON.parse(await readFile(`${request.folder}/${name}`, "utf8"));
  const contents = await json("classifier.json");
  if (request.captions && contents.text) {
    const text = reader.textOf(contents.text, await json("words.json"));
    out.words = request.captions.map((caption) => text.words(caption));
    out.ids = request.captions.map((caption) => [...text.ids(caption)]);
  }
  const rule = new reader.Rule(contents.rule, contents.labels);
  if (request.raw) out.answers = request.raw.map((row) => plain(rule.answer(Float32Array.from(row))));
  if (request.model) out.answers = await answered(contents);
}
process.stdout.write(JSON.stringify(out));

async function answered(contents) {
  const ort = await import("onnxruntime-node");
  const classifier = await reader.Classifier.load(request.folder, request.model, ort.default);
  const all = request.pictures && new Uint8Array(await readFile(request.pictures));
  const size = contents.image && contents.image.side ** 2 * 3;
  const rows = request.captions?.length ?? all.length / size;
  const answers = [];
  for (let start = 0; start < rows; start += request.batch) {
    const part = Array.from({ length: Math.min(request.batch, rows - start) }, (_, place) => start + place);
    const captions = request.captions && part.map((row) => request.captions[row]);
    const pictures = all && part.map((row) => all.subarray(row * size, (row + 1) * size));
    answers.push(...(await classifier.answer({ captions, pictures })).map(plain));
  }
  return answers;
}
