/**
 * A JPEG as a phone's camera writes it: lying on its side, with EXIF data that say so, and who took it where.
 *
 * Upright its upper half is red and its lower half blue. It knows nothing of the app.
 */

import type { Locator, Page } from "playwright-core";

const MAKER = "Spycam";
/** 52° 31' 12.34" N, 13° 24' 17.59" E, as EXIF counts them. */
const LATITUDE = fractions(52, 31, 1234);
const LONGITUDE = fractions(13, 24, 1759);
/** What nobody but the photographer is to learn, as it stands in the file. */
export const PRIVATE: readonly Buffer[] = ["Exif", MAKER, LATITUDE, LONGITUDE].map((each) => Buffer.from(each));

const START_BYTES = 2;
const [ASCII, SHORT, LONG, RATIONAL] = [2, 3, 4, 5];
const TURNED_RIGHT = 6;

/** *width* and *height*: of the picture when it is upright. *page* draws it. */
export async function cameraPhoto(page: Page, width: number, height: number): Promise<Buffer> {
  const url = await page.evaluate(
    ([wide, high]) => {
      const canvas = Object.assign(document.createElement("canvas"), { width: wide, height: high });
      const pen = canvas.getContext("2d");
      for (const [colour, x] of [["#d22", 0] as const, ["#22d", wide / 2] as const]) {
        if (pen) pen.fillStyle = colour;
        pen?.fillRect(x, 0, wide / 2, high);
      }
      return canvas.toDataURL("image/jpeg");
    },
    [height, width] as const,
  );
  const jpeg = Buffer.from(url.slice(url.indexOf(",") + 1), "base64");
  return Buffer.concat([jpeg.subarray(0, START_BYTES), exif(), jpeg.subarray(START_BYTES)]);
}

/** The colour of the upper and of the lower half of what an image or a canvas shows. */
export async function halves(shown: Locator): Promise<string[]> {
  return shown.evaluate((picture: HTMLImageElement | HTMLCanvasElement) => {
    const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 2 }).getContext("2d");
    pen?.drawImage(picture, 0, 0, 1, 2);
    const [upperRed = 0, , upperBlue = 0, , lowerRed = 0, , lowerBlue = 0] = pen?.getImageData(0, 0, 1, 2).data ?? [];
    const name = (red: number, blue: number) => (red > blue + 50 ? "red" : blue > red + 50 ? "blue" : "neither");
    return [name(upperRed, upperBlue), name(lowerRed, lowerBlue)];
  });
}

/** The segment APP1: a TIFF file with two directories, whose longer values stand behind them. */
function exif(): Buffer {
  const maker = Buffer.from(`${MAKER}\0`);
  const mainAt = 8;
  const gpsAt = mainAt + 2 + 3 * 12 + 4;
  const latitudeAt = gpsAt + 2 + 4 * 12 + 4;
  const longitudeAt = latitudeAt + LATITUDE.length;
  const makerAt = longitudeAt + LONGITUDE.length;
  const tiff = Buffer.concat([
    Buffer.from("II*\0"),
    long(mainAt),
    directory([
      [0x010f, ASCII, maker.length, long(makerAt)],
      [0x0112, SHORT, 1, long(TURNED_RIGHT)],
      [0x8825, LONG, 1, long(gpsAt)],
    ]),
    directory([
      [1, ASCII, 2, Buffer.from("N\0\0\0")],
      [2, RATIONAL, 3, long(latitudeAt)],
      [3, ASCII, 2, Buffer.from("E\0\0\0")],
      [4, RATIONAL, 3, long(longitudeAt)],
    ]),
    LATITUDE,
    LONGITUDE,
    maker,
  ]);
  const head = Buffer.from([0xff, 0xe1, 0, 0, ..."Exif\0\0".split("").map((each) => each.charCodeAt(0))]);
  head.writeUInt16BE(head.length - 2 + tiff.length, 2);
  return Buffer.concat([head, tiff]);
}

function directory(entries: [tag: number, type: number, count: number, value: Buffer][]): Buffer {
  const rows = entries.map(([tag, type, count, value]) => Buffer.concat([short(tag), short(type), long(count), value]));
  return Buffer.concat([short(rows.length), ...rows, long(0)]);
}

/** Degrees, minutes, and hundredths of seconds. */
function fractions(degrees: number, minutes: number, hundredths: number): Buffer {
  return Buffer.concat([degrees, 1, minutes, 1, hundredths, 100].map(long));
}

function short(value: number): Buffer {
  return Buffer.from([value & 0xff, value >> 8]);
}

function long(value: number): Buffer {
  return Buffer.concat([short(value & 0xffff), short(value >>> 16)]);
}
