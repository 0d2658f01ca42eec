// dist/ from src/: the same code as an ES module and as CommonJS, and the same types for both.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';

rmSync('dist', { recursive: true, force: true });
mkdirSync('dist');
const source = readFileSync('src/index.mjs', 'utf8');
const [body, exported] = source.split(/^(?=export \{)/m);
if (!exported) throw new Error('src/index.mjs must end with its exports');
writeFileSync('dist/index.mjs', source);
writeFileSync(
  'dist/index.cjs',
  `'use strict';\n${body.replace(/^export class/m, 'class')}module.exports = { Sendkit, SendKit: Sendkit, default: Sendkit };\n` +
    "Object.defineProperty(module.exports, '__esModule', { value: true });\n",
);
cpSync('src/index.d.ts', 'dist/index.d.mts');
cpSync('src/index.d.ts', 'dist/index.d.cts');
