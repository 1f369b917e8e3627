// Plays one scene: `node play.mjs SCENE URL FOLDER`. The mesh at URL is the scene's own; pictures go into FOLDER.

import { Browser, Mesh } from "./stage.mjs";
import * as scenes from "./scenes.mjs";

const [name, url, folder] = process.argv.slice(2);
const mesh = new Mesh(url);
const browser = new Browser(mesh, folder);
let status = 0;
try {
  await scenes[name](mesh, browser);
  browser.judge();
} catch (error) {
  console.error(error.stack);
  status = 1;
  // What there was to see when it went wrong.
  for (const page of browser.pages()) await page.screenshot({ path: `${folder}/${name}-failed.png` }).catch(() => {});
}
await browser.close();
process.exit(status);
