// Small pictures: a line over time, a histogram over a logarithmic axis of time.

import { duration, whole } from "./text.js";

// Powers of two microseconds that all histograms show, so that they can be compared: 16 µs, 67 s.
const LEAST = 4;
const MOST = 26;
const MARKS = [1e-3, 1];

function prepare(canvas) {
  const ratio = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  return { pen, width, height, colour: (name) => style.getPropertyValue(`--${name}`) };
}

// points: [{at, value}] in seconds, by time; the last `seconds` of them.
export function line(canvas, points, now, seconds, label) {
  const { pen, width, height, colour } = prepare(canvas);
  const most = Math.max(...points.map((point) => point.value), 1);
  const x = (at) => width - ((now - at) / seconds) * width;
  const y = (value) => height - 2 - (value / most) * (height - 5);
  pen.strokeStyle = colour("line");
  pen.beginPath();
  pen.moveTo(0, height - 1.5);
  pen.lineTo(width, height - 1.5);
  pen.stroke();
  pen.strokeStyle = colour("accent");
  pen.lineWidth = 1.5;
  pen.lineJoin = "round";
  pen.beginPath();
  points.forEach((point, index) => {
    if (index === 0) pen.moveTo(x(point.at), y(point.value));
    else pen.lineTo(x(point.at), y(point.value));
  });
  pen.stroke();
  canvas.setAttribute("aria-label", `${label}: at most ${whole.format(Math.round(most))}`);
}

export function bars(canvas, histogram, label) {
  const { pen, width, height, colour } = prepare(canvas);
  const step = width / (MOST - LEAST + 1);
  pen.fillStyle = colour("line");
  for (const mark of MARKS) {
    pen.fillRect((Math.log2(mark * 1e6) - LEAST + 1) * step, 0, 1, height);
  }
  pen.fillRect(0, height - 1, width, 1);
  pen.fillStyle = colour("accent");
  const shown = new Map();
  for (const [power, count] of histogram.buckets) {
    const place = Math.min(Math.max(power, LEAST), MOST);
    shown.set(place, (shown.get(place) ?? 0) + count);
  }
  const most = Math.max(...shown.values(), 1);
  for (const [power, count] of shown) {
    // One of a thousand is still to be seen.
    const tall = Math.max((count / most) * (height - 2), 1.5);
    pen.fillRect((power - LEAST) * step + 0.5, height - 1 - tall, Math.max(step - 1, 1), tall);
  }
  canvas.setAttribute("aria-label", `${label} of ${whole.format(histogram.count)}: ` +
    `median ${duration(histogram.p50)}, p99 ${duration(histogram.p99)}, worst ${duration(histogram.max)}`);
}

// Several lines over hours. at: when each entry ended; lines: [{values, colour, label}], of which
// null is not known. Where nothing was kept, there is no line.
export function chart(canvas, at, lines, { now, seconds, step, title, show }) {
  const { pen, width, height, colour } = prepare(canvas);
  const known = lines.map((each) => each.values.filter((value) => value !== null));
  const most = Math.max(...known.map((values) => Math.max(...values, 0)), Number.EPSILON);
  const x = (time) => width - ((now - time) / seconds) * width;
  const y = (value) => height - 2 - (value / most) * (height - 6);
  pen.fillStyle = colour("line");
  for (let part = 0; part <= 4; part += 1) pen.fillRect((width - 1) * (part / 4), 0, 1, height);
  pen.fillRect(0, height - 1, width, 1);
  lines.forEach((each, index) => {
    pen.strokeStyle = colour(each.colour);
    pen.lineWidth = 1.5;
    pen.setLineDash([[], [4, 2], [1, 2]][index]);
    pen.beginPath();
    let last = null;
    at.forEach((time, place) => {
      const value = each.values[place];
      if (value === null || value === undefined) {
        last = null;
      } else {
        if (last === null || time - last > 2.5 * step) pen.moveTo(x(time) - 1, y(value));
        pen.lineTo(x(time), y(value));
        last = time;
      }
    });
    pen.stroke();
  });
  pen.setLineDash([]);
  const told = lines.map((each, index) => {
    const values = known[index];
    return values.length ? `${each.label} ${show(values.at(-1))}, at most ${show(Math.max(...values))}` : `${each.label} –`;
  }).join("; ");
  canvas.setAttribute("aria-label", `${title}: ${told}`);
  return told;
}
