/** The pigeon, drawn: it stands where a screen is empty, waits, or has something to explain. */

import { useId } from "preact/hooks";

/** *mood*: what it carries. */
export function Pigeon({
  mood = "plain",
  size = 160,
}: {
  mood?: "plain" | "letter" | "asleep" | "puzzled";
  size?: number;
}) {
  const neck = useId();
  return (
    <svg class="pigeon" width={size} height={size} viewBox="0 0 124 120" aria-hidden="true" focusable="false">
      <defs>
        <linearGradient id={neck} x1="0.2" y1="0" x2="0.6" y2="1">
          <stop offset="0" stop-color="#33475c" />
          <stop offset=".38" stop-color="#2b8a7c" />
          <stop offset=".72" stop-color="#6d55a3" />
          <stop offset="1" stop-color="#8fa3b8" />
        </linearGradient>
      </defs>
      <ellipse class="pigeon-shadow" cx="60" cy="109" rx="34" ry="3.5" />
      <path
        d="M52 90v16M52 106l-6 2M52 106l7 1.5M66 90v16M66 106l-6 2M66 106l7 1.5"
        stroke="#d9573d"
        stroke-width="2.6"
        stroke-linecap="round"
        fill="none"
      />
      <path d="M6 92c4-9 14-20 28-25l12 16c-12 4-25 8-38 11.5-1.7.4-2.7-1-2-2.5z" fill="#5d7389" />
      <path d="M8 93c9-3 22-10 32-17" stroke="#3b5064" stroke-width="1.6" fill="none" stroke-linecap="round" />
      <path
        d="M26 76c6-17 24-26 42-27 5-11 6-22 20-24 10-1.3 16 5.5 16 13 0 8-3 13-4 21-2.5 22-17 37-39 37-15 0-28-6-35-20z"
        fill="#93a7ba"
      />
      <path
        d="M68 49c4-9 6-22.5 20-24 10-1.2 16 5.5 16 13 0 8-3 13-4 21-.5 5-1.8 9.7-4 14-9 1-24-8-28-24z"
        fill={`url(#${neck})`}
      />
      <path
        d="M74.5 36c2-6.5 6-10.5 13.5-11.2 10-1 16 5.7 16 13.2 0 4-.8 7.3-1.7 10.8-9 1.5-22-2-27.8-12.800z"
        fill="#4a6178"
      />
      <path d="M102.5 33c5-.2 9.5 1.8 12.3 5 .8 1-.1 2-1.3 1.900l-9.5-.4z" fill="#39434d" />
      <path d="M101 31.800c2.8-.9 5.6-.3 7 1.2.7.9-.6 2-2.9 2.1-1.7.1-3.2-.4-4.1-1.300z" fill="#f1ece2" />
      {mood === "asleep" ? (
        <path d="M90.5 35c1.5 2 5 2 6.5 0" stroke="#1a222a" stroke-width="1.7" fill="none" stroke-linecap="round" />
      ) : (
        <>
          <circle cx="94" cy="34.5" r="3.7" fill="#e8694b" />
          <circle cx="94.3" cy="34.5" r="1.8" fill="#1a222a" />
          <circle cx="95" cy="33.7" r=".6" fill="#fff" />
        </>
      )}
      <path
        d="M20 85c7-21 27-32 49-26 6 1.7 9 6 7.5 11.500C73 83 55 92 38 90.500c-6-.5-13-2-18-5.500z"
        fill="#b9c7d4"
      />
      <path
        d="M44 60.500c3.5 9 2.5 20-3 30M54.5 58c4 8.5 4 20-1.5 30.5"
        stroke="#4a6178"
        stroke-width="4.2"
        fill="none"
        opacity=".9"
      />
      {mood === "letter" && (
        <g transform="rotate(9 108 46)">
          <rect x="97" y="40" width="25" height="17" rx="2" fill="#fffdf8" stroke="#c9c2b2" stroke-width=".8" />
          <path d="M97.5 41l12 9 12-9" fill="none" stroke="#c9c2b2" stroke-width="1" />
          <circle cx="109.5" cy="50" r="2.6" fill="#d9573d" />
        </g>
      )}
      {mood === "asleep" && (
        <path
          class="pigeon-line"
          d="M104 20h5l-5 6h5M112 9h6.500l-6.5 8h6.5"
          stroke-width="1.6"
          fill="none"
          stroke-linecap="round"
          stroke-linejoin="round"
        />
      )}
      {mood === "puzzled" && (
        <path
          class="pigeon-line"
          d="M108 14.500c0-3 2.2-5 5-5s5 1.9 5 4.500c0 3.5-5 3.5-5 7.500M113 25.500v.1"
          stroke-width="2"
          fill="none"
          stroke-linecap="round"
        />
      )}
    </svg>
  );
}

/** The head alone: the mark of the app. */
export function Mark({ size = 32 }: { size?: number }) {
  const neck = useId();
  return (
    <svg class="mark" width={size} height={size} viewBox="80 90 380 380" aria-hidden="true" focusable="false">
      <defs>
        <linearGradient id={neck} x1=".3" y1="0" x2=".6" y2="1">
          <stop offset="0" stop-color="#5c7894" />
          <stop offset=".4" stop-color="#2f9485" />
          <stop offset=".75" stop-color="#7659ad" />
          <stop offset="1" stop-color="#93a7ba" />
        </linearGradient>
      </defs>
      <path
        d="M92 470c2-130 56-182 84-236 22-42 24-118 100-126 62-6 98 36 98 84 0 46-22 70-22 118 0 70 40 100 40 160z"
        fill={`url(#${neck})`}
      />
      <path
        d="M197 188c10-46 32-76 79-80.5 62-6 98 36.5 98 84.5 0 22-5 39-10.5 57C306 262 226 250 197 188z"
        fill="#5c7894"
      />
      <path d="M372 172c30 1 58 14 76 34 6 7 0 14-9 13l-66-5z" fill="#d9573d" />
      <circle cx="306" cy="182" r="27" fill="#f08b70" />
      <circle cx="308" cy="182" r="13" fill="#1a222a" />
    </svg>
  );
}
