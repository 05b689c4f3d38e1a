// Opens pages on a screen of 360 pixels for test_phone.py, every fold unfolded: `node phone.mjs FOLDER PAGE...`, prints JSON.
// FOLDER gets a picture of the last page's image in each color scheme.

import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { open } from "../chromium.mjs";

const WIDTH = 360;
const [folder, ...pages] = process.argv.slice(2);
const tab = await open("--allow-file-access-from-files");
const seen = [];
try {
  await tab.setViewport({ width: WIDTH, height: 800 });
  for (const page of pages) {
    await tab.goto(pathToFileURL(page).href);
    seen.push(await tab.evaluate((width) => {
      for (const fold of document.querySelectorAll("details")) fold.open = true;
      const boxes = [...document.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth + 1);
      const texts = [...document.querySelectorAll("svg text")].filter(
        (text) => text.getClientRects().length && text.textContent,
      );
      const outside = texts.filter((text) => {
        const { left, right } = text.getBoundingClientRect();
        return left < 0 || right > width;
      });
      const first = boxes.map((box) => {
        box.scrollLeft = box.scrollWidth;
        return box.querySelector("tbody th").getBoundingClientRect().left - box.getBoundingClientRect().left;
      });
      return {
        width: document.documentElement.scrollWidth,
        texts: texts.length,
        outside: outside.map((text) => text.textContent),
        scrolling: boxes.length,
        unreachable: boxes.filter((box) => box.tabIndex < 0).length,
        moved: first.filter((left) => left > 1).length,
      };
    }, WIDTH));
  }
  for (const scheme of ["light", "dark"]) {
    await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await tab.reload();
    await (await tab.$("img")).screenshot({ path: join(folder, `${scheme}.png`) });
  }
} finally {
  await tab.browser().close();
}
console.log(JSON.stringify(seen));
