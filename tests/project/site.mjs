// Opens the pages of the site from a disk for test_docs.py: `node site.mjs FOLDER PAGE...`. Prints JSON: what the pages ask of
// a network, those that are wider than a phone, and what the search finds for "rank".

import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { open } from "../chromium.mjs";

const [folder, ...names] = process.argv.slice(2);
const page = await open();
try {
  const asked = [];
  page.on("request", (request) => /^(file|data|blob|about):/.test(request.url()) || asked.push(request.url()));
  await page.setViewport({ width: 360, height: 800 });
  const wide = [];
  for (const name of names) {
    await page.goto(pathToFileURL(join(folder, name)).href);
    if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) wide.push(name);
  }
  await page.setViewport({ width: 1280, height: 800 });
  await page.type(".md-search__input", "rank");
  await page.waitForSelector(".md-search-result__link");
  const found = await page.evaluate(() => document.querySelector(".md-search-result__link").getAttribute("href"));
  console.log(JSON.stringify({ asked, wide, found }));
} finally {
  await page.browser().close();
}
