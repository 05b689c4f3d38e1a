// Drives the page of examples/browser for test_browser.py: `node browser.mjs SCENARIO ADDRESS [ARGUMENT...]`, prints JSON.

import { cpSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { open } from "../chromium.mjs";

const FAKE_CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
const [scenario, address, ...rest] = process.argv.slice(2);

const scenarios = {
  // Answers of the model behind the page: OPTIONS (JSON) IMAGE...
  async answers(page, options, ...images) {
    if (page.url() !== address) await page.goto(address);
    await page.evaluate(async () => {
      if (globalThis.client) return;
      const { ModelClient } = await import("/browser/model_client.mjs");
      globalThis.client = new ModelClient();
      await client.open({ base: new URL("/bundle/", location.href).href, expertBudget: null });
    });
    const answers = [];
    for (const image of images) {
      answers.push(
        await page.evaluate(
          async (content, chosen) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const { embedding, ...answer } = await client.classify(new Blob([bytes]), chosen);
            return { ...answer, embedding: Array.from(embedding) };
          },
          readFileSync(image).toString("base64"),
          JSON.parse(options),
        ),
      );
    }
    return answers;
  },

  // Milliseconds by part of every image and round, the first round left out, and what the page tells of its memory: ROUNDS
  // IMAGE...
  async measure(page, rounds, ...images) {
    const measured = [];
    for (let round = 0; round <= Number(rounds); round++) {
      const answers = await scenarios.answers(page, "{}", ...images);
      if (round) measured.push(...answers.map(({ milliseconds }) => milliseconds));
    }
    return { milliseconds: measured, status: await page.evaluate(() => client.status()) };
  },

  // What a person sees: chooses all images but the last, and drops that one.
  async files(page, ...images) {
    const requests = [];
    page.on("request", (request) => requests.push(request.url()));
    await page.goto(address);
    await ready(page);
    await (await page.$("#files")).uploadFile(...images.slice(0, -1));
    await cards(page, images.length - 1);
    const dropped = images.at(-1);
    await page.evaluate(
      (content, name) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], name));
        for (const type of ["dragover", "drop"]) {
          document
            .getElementById("drop")
            .dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
        }
      },
      readFileSync(dropped).toString("base64"),
      basename(dropped),
    );
    await cards(page, images.length);
    await page.waitForFunction(() => document.querySelectorAll("#figures dd").length > 1);
    const { children } = await page.accessibility.snapshot();
    const shown = await page.evaluate(() => ({
      isolated: crossOriginIsolated,
      cards: Array.from(document.querySelectorAll("#list .card"), (card) => card.innerText),
      figures: Object.fromEntries(
        Array.from(document.querySelectorAll("#figures dt"), (name) => [name.innerText, name.nextSibling.innerText]),
      ),
      wide: document.documentElement.scrollWidth > innerWidth,
    }));
    return { ...shown, requests, controls: controls(children) };
  },

  // Opens the page with the server, and once more without it: PID of the server, TASK whose expert is asked for, IMAGE.
  async offline(page, pid, task, image) {
    await page.goto(address);
    await ready(page);
    await page.evaluate(() => navigator.serviceWorker.ready);
    const ask = async () => {
      await ready(page);
      const before = await page.$$eval("#list .card", (all) => all.length);
      await (await page.$("#files")).uploadFile(image);
      await cards(page, before + 1);
      return page.$eval("#list .card", (card) => card.innerText);
    };
    await page.select("#task", task);
    const online = await ask();
    process.kill(Number(pid));
    await page.waitForFunction(() =>
      fetch("/bundle/golden.npz").then(
        () => false,
        () => true,
      ),
    );
    await page.reload();
    await ready(page);
    const isolated = await page.evaluate(() => crossOriginIsolated);
    await page.select("#task", task);
    const offline = await ask();
    await page.select("#task", await page.$eval("#task option:last-child", (option) => option.value));
    return { online, offline, isolated, another: await ask() };
  },

  // What the page keeps of a bundle, and what after FOLDER was replaced by ANOTHER and the page loaded again.
  async replaced(page, folder, another) {
    const kept = () =>
      page.evaluate(async () => {
        const addresses = (await (await caches.open("mingle-edge-bundle")).keys()).map(({ url }) => new URL(url));
        return Object.fromEntries(
          addresses.map((url) => [url.pathname.replace("/bundle/", ""), url.searchParams.get("sha256")]),
        );
      });
    await page.goto(address);
    await ready(page);
    const before = await kept();
    cpSync(another, folder, { recursive: true });
    await page.reload();
    await ready(page);
    return { before, after: await kept() };
  },

  // What stands where a model should be.
  async opening(page) {
    await page.goto(address);
    await page.waitForSelector("#error:not([hidden])");
    return page.evaluate(() => ({
      error: document.getElementById("error").innerText,
      controls: !document.getElementById("controls").hidden,
    }));
  },

  // The camera's answers until there are five.
  async camera(page) {
    await page.goto(address);
    await ready(page);
    await page.click("#camera");
    const titles = new Set();
    while (titles.size < 5) {
      await page.waitForSelector("#live h3");
      titles.add(await page.$eval("#live h3", (title) => title.innerText));
    }
    const running = await page.$eval("#camera", (button) => [button.innerText, button.ariaPressed]);
    await page.click("#camera");
    return {
      titles: [...titles],
      running,
      stopped: await page.$eval("#camera", (button) => [button.innerText, button.ariaPressed]),
      answer: await page.$eval("#live .card", (card) => card.innerText),
    };
  },
};

const ready = (page) => page.waitForSelector("#controls:not([hidden])");
const cards = (page, count) =>
  page.waitForFunction((wanted) => document.querySelectorAll("#list .card").length === wanted, {}, count);

function controls(nodes) {
  return nodes.flatMap((node) => [
    ...(["button", "combobox", "progressbar"].includes(node.role) ? [`${node.role}: ${node.name.trim()}`] : []),
    ...controls(node.children ?? []),
  ]);
}

const page = await open(...(scenario === "camera" ? FAKE_CAMERA : []));
try {
  page.on("pageerror", ({ message }) => console.error(`error on the page: ${message}`));
  console.log(JSON.stringify(await scenarios[scenario](page, ...rest)));
} finally {
  await page.browser().close();
}
