// Uses the server's page in Chromium for test_page.py: `node page.mjs ADDRESS PICTURE BROKEN TASK`, prints what it saw as JSON.

import { open } from "../chromium.mjs";

const [address, picture, broken, task] = process.argv.slice(2);
const tab = await open("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream");
const seen = { outside: [], complaints: [], widths: [], keyboard: [] };
try {
  tab.on("request", (request) => {
    if (!/^(blob|data):/.test(request.url()) && !request.url().startsWith(address)) seen.outside.push(request.url());
  });
  tab.on("console", (message) => seen.complaints.push(message.text()));
  tab.on("pageerror", (error) => seen.complaints.push(String(error)));
  await tab.setViewport({ width: 360, height: 800 });
  for (const scheme of ["light", "dark"]) {
    await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await tab.goto(address, { waitUntil: "networkidle0" });
    await choose(tab, picture);
    seen[scheme] = await answer(tab);
    seen.widths.push(await tab.evaluate(() => document.documentElement.scrollWidth));
  }
  for (let i = 0; i < 3; i++) {
    await tab.keyboard.press("Tab");
    seen.keyboard.push(await tab.evaluate(() => document.activeElement.id));
  }
  await tab.evaluate(() => { document.getElementById("result").hidden = true; });
  await tab.select("#task", task);
  seen.named = await answer(tab);
  await choose(tab, broken);
  await tab.waitForFunction(() => document.getElementById("problem").textContent);
  seen.problem = await text(tab, "problem");
  seen.resultAfterProblem = await tab.evaluate(() => !document.getElementById("result").hidden);
  await tab.focus("#camera");
  await tab.keyboard.press("Enter");
  seen.camera = await answer(tab);
  seen.button = await text(tab, "camera");
  await tab.keyboard.press("Enter");
  seen.stopped = await tab.evaluate(() => document.getElementById("video").hidden);
} finally {
  await tab.browser().close();
}
console.log(JSON.stringify(seen));

async function choose(tab, file) {
  await (await tab.$("#file")).uploadFile(file);
}

async function answer(tab) {
  await tab.waitForFunction(() => !document.getElementById("result").hidden);
  return tab.evaluate(() => ({
    ...Object.fromEntries(
      ["answer", "route", "resident", "confidence"].map((id) => [id, document.getElementById(id).textContent]),
    ),
    labels: [...document.querySelectorAll("#labels li")].map((row) => row.textContent),
    posterior: document.querySelectorAll("#posterior li").length,
    background: getComputedStyle(document.body).backgroundColor,
  }));
}

function text(tab, id) {
  return tab.evaluate((name) => document.getElementById(name).textContent, id);
}
