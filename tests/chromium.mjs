// Chromium for tests: the one of @sparticuz/chromium (x86-64), unpacked into the system's folder for temporary files, which
// TMPDIR names; libraries that the system lacks come with it. MINGLE_CHROMIUM names another that is installed.

import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const packages = createRequire(new URL("../examples/package.json", import.meta.url));
const load = (name) => import(pathToFileURL(packages.resolve(name)));
const { default: chromium, inflate, setupLambdaEnvironment } = await load("@sparticuz/chromium");
const { default: puppeteer } = await load("puppeteer-core");
const PATIENCE = 120_000; // milliseconds that a step may take, on a machine that does other things meanwhile

// Opens a page in a browser of its own, which `page.browser().close()` ends. more: switches of Chromium.
export async function open(...more) {
  const executablePath = process.env.MINGLE_CHROMIUM ?? (await chromium.executablePath());
  if (!starts(executablePath)) {
    await inflate(join(packages.resolve("@sparticuz/chromium"), "../../bin/al2023.tar.br"));
    setupLambdaEnvironment(join(tmpdir(), "al2023", "lib"));
  }
  // No sandbox, as tests may run as root, and no other of the package's switches, some of which weaken what is tested.
  const args = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", ...more];
  const userDataDir = join(tmpdir(), `profile-${process.pid}`);
  const browser = await puppeteer.launch({ executablePath, args, headless: "shell", userDataDir, timeout: PATIENCE });
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  return page;
}

function starts(program) {
  try {
    execFileSync(program, ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}
