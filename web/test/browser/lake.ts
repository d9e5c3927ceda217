/** A photo that nobody took: a lake in the evening, with three pigeons on a pier, drawn anew each time. */

import type { Browser } from "playwright-core";

/** A PNG of 1200 × 900. */
export async function lake(browser: Browser): Promise<Buffer> {
  const page = await browser.newPage();
  try {
    return Buffer.from(await page.evaluate(draw), "base64");
  } finally {
    await page.close();
  }
}

/** Runs in the page, so that it knows nothing from outside itself. */
function draw(): string {
  const [width, height, shore] = [1200, 900, 560];
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const on = canvas.getContext("2d");
  if (!on) return "";

  const down = (from: number, to: number, ...colours: [number, string][]) => {
    const gradient = on.createLinearGradient(0, from, 0, to);
    for (const [at, colour] of colours) gradient.addColorStop(at, colour);
    return gradient;
  };
  const circle = (x: number, y: number, radius: number, fill: string | CanvasGradient) => {
    on.fillStyle = fill;
    on.beginPath();
    on.arc(x, y, radius, 0, 2 * Math.PI);
    on.fill();
  };
  const hills = (top: number, swing: number, wave: number, shift: number, fill: string) => {
    on.fillStyle = fill;
    on.beginPath();
    on.moveTo(0, shore);
    for (let x = 0; x <= width; x += 4) {
      const y =
        Math.sin(x * wave + shift) + 0.45 * Math.sin(x * wave * 2.7 + shift * 3) + 0.15 * Math.sin(x * wave * 9);
      on.lineTo(x, top - swing * y);
    }
    on.lineTo(width, shore);
    on.fill();
  };

  on.fillStyle = down(0, shore, [0, "#2f4a78"], [0.45, "#93719b"], [0.78, "#ea9a74"], [1, "#ffd79a"]);
  on.fillRect(0, 0, width, shore);
  const [sunX, sunY] = [800, 500];
  const glow = on.createRadialGradient(sunX, sunY, 20, sunX, sunY, 420);
  glow.addColorStop(0, "rgb(255 236 180 / 85%)");
  glow.addColorStop(1, "rgb(255 200 140 / 0%)");
  circle(sunX, sunY, 420, glow);
  circle(sunX, sunY, 56, "#fff3cf");
  hills(470, 58, 0.0052, 0.4, "#a67a92");
  hills(508, 44, 0.0075, 2.1, "#7d6388");
  hills(540, 26, 0.011, 4.4, "#4e4a70");

  on.fillStyle = down(shore, height, [0, "#f3b688"], [0.22, "#b98092"], [1, "#2d4066"]);
  on.fillRect(0, shore, width, height - shore);
  on.lineCap = "round";
  for (let row = 0; row < 26; row += 1) {
    const y = shore + 8 + row * row * 0.5;
    const half = 30 + row * 5 + 26 * Math.sin(row * 2.3);
    on.strokeStyle = `rgb(255 226 170 / ${70 - row * 2.4}%)`;
    on.lineWidth = 2 + row * 0.16;
    on.beginPath();
    on.moveTo(sunX - half + 14 * Math.sin(row * 5.1), y);
    on.lineTo(sunX + half + 14 * Math.sin(row * 3.7), y);
    on.stroke();
  }

  // the pier
  on.fillStyle = "#2a2540";
  for (const x of [60, 210, 360, 500]) on.fillRect(x, 742, 20, height - 742);
  on.beginPath();
  on.moveTo(0, 716);
  on.lineTo(560, 726);
  on.lineTo(560, 748);
  on.lineTo(0, 752);
  on.fill();

  const pigeon = (x: number, y: number, size: number, turned: number, body: string, wing: string) => {
    on.save();
    on.translate(x, y);
    on.scale(size * turned, size);
    on.strokeStyle = "#c96a52";
    on.lineWidth = 4;
    for (const leg of [-8, 8]) {
      on.beginPath();
      on.moveTo(leg, -26);
      on.lineTo(leg + 3, 0);
      on.lineTo(leg + 12, 0);
      on.stroke();
    }
    on.fillStyle = body; // tail, back, neck and head, beak side to the right
    on.beginPath();
    on.moveTo(-104, -22);
    on.bezierCurveTo(-70, -50, -50, -84, 0, -88);
    on.bezierCurveTo(22, -92, 22, -112, 30, -124);
    on.bezierCurveTo(40, -142, 72, -140, 74, -116);
    on.bezierCurveTo(74, -98, 66, -92, 64, -76);
    on.bezierCurveTo(60, -38, 30, -20, -4, -20);
    on.bezierCurveTo(-34, -20, -60, -24, -104, -22);
    on.fill();
    on.fillStyle = wing;
    on.beginPath();
    on.moveTo(26, -70);
    on.bezierCurveTo(-4, -92, -50, -62, -92, -28);
    on.bezierCurveTo(-46, -32, 14, -26, 26, -70);
    on.fill();
    on.fillStyle = "#e8b59a";
    on.beginPath();
    on.moveTo(73, -122);
    on.lineTo(90, -113);
    on.lineTo(72, -108);
    on.fill();
    circle(57, -121, 4.5, "#ffdca8");
    on.restore();
  };
  pigeon(150, 722, 1.05, 1, "#3d3c5e", "#57567c");
  pigeon(300, 724, 0.86, -1, "#4a4468", "#6a6288");
  pigeon(470, 726, 1, 1, "#343654", "#50517a");
  return canvas.toDataURL("image/png").split(",")[1] ?? "";
}
