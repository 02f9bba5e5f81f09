// Reads an AsyncAPI document with AsyncAPI's own parser, and prints what it finds wrong as a list of JSON.
//
//   node read.mjs DIRECTORY-WITH-NODE-MODULES DOCUMENT
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const [modules, path] = process.argv.slice(2);
const { Parser, fromFile } = createRequire(join(resolve(modules), "package.json"))("@asyncapi/parser");
const { document, diagnostics } = await fromFile(new Parser(), path).parse();
// Errors and warnings; what is above them are recommendations of newer versions.
const wrong = diagnostics.filter(({ severity }) => severity <= 1);
const channels = document ? document.channels().all().length : 0;
console.log(JSON.stringify({ channels, wrong: wrong.map(({ message, path }) => `${path.join(".")}: ${message}`) }));
