// The chart of round trips over time: logarithmic, so that 2 ms and 2 s are both readable.

// Milliseconds between two questions, and how many are shown.
export const INTERVAL = 125;
const WINDOW = 30_000;
const LEAST = 0.5;
const MOST = 30_000;
const TICKS = [[1, "1 ms"], [10, "10 ms"], [100, "100 ms"], [1000, "1 s"], [10_000, "10 s"]];
const NAMES = { inline: "inline", thread: "in a thread", offloaded: "offloaded", job: "as a job" };

export class Chart {
  // points: [{at, took}] in ms, by time; spans: [{way, from, to}], `to` undefined while it runs.
  constructor(canvas) {
    this.canvas = canvas;
    this.points = [];
    this.spans = [];
    this.pendingSince = undefined;
    const redraw = () => this.draw();
    new ResizeObserver(redraw).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  }

  add(at, took) {
    this.points.push({ at, took });
  }

  // What has been measured since an instant, sorted.
  since(at) {
    return this.points.filter((point) => point.at >= at).map((point) => point.took).sort((a, b) => a - b);
  }

  draw() {
    const now = performance.now();
    const first = this.points.findIndex((point) => point.at > now - WINDOW - 1000);
    this.points.splice(0, Math.max(first, 0));
    this.spans = this.spans.filter((span) => (span.to ?? now) > now - WINDOW);
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    const area = { left: 52, right: width - 8, top: 20, bottom: height - 22 };
    const x = (at) => area.right - ((now - at) / WINDOW) * (area.right - area.left);
    const scale = Math.log(MOST / LEAST);
    const y = (took) =>
      area.bottom - (Math.log(Math.min(Math.max(took, LEAST), MOST) / LEAST) / scale) * (area.bottom - area.top);

    this.drawSpans(pen, area, x, now, colour);
    this.drawAxes(pen, area, y, colour);
    this.drawLine(pen, area, x, y, now, colour);
  }

  drawSpans(pen, area, x, now, colour) {
    let named = 0;
    for (const span of this.spans) {
      const left = Math.max(x(span.from), area.left);
      const right = Math.max(x(span.to ?? now), left + 1);
      pen.fillStyle = colour(span.way);
      pen.globalAlpha = 0.13;
      pen.fillRect(left, area.top, right - left, area.bottom - area.top);
      pen.globalAlpha = 1;
      pen.fillRect(left, area.top, right - left, 3);
      // Not by colour alone.
      pen.textAlign = "left";
      pen.textBaseline = "alphabetic";
      const name = NAMES[span.way];
      const { width } = pen.measureText(name);
      const start = Math.max(Math.min(left, area.right - width), named);
      if (start + width <= area.right) {
        pen.fillText(name, start, area.top - 6);
        named = start + width + 8;
      }
    }
  }

  drawAxes(pen, area, y, colour) {
    pen.lineWidth = 1;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const [took, label] of TICKS) {
      const at = Math.round(y(took)) + 0.5;
      pen.strokeStyle = colour("line");
      pen.beginPath();
      pen.moveTo(area.left, at);
      pen.lineTo(area.right, at);
      pen.stroke();
      pen.fillStyle = colour("soft");
      pen.fillText(label, area.left - 8, at);
    }
    pen.textBaseline = "top";
    const step = area.right - area.left < 420 ? 10 : 5;
    for (let ago = 0; ago <= WINDOW / 1000; ago += step) {
      const at = area.right - (ago * 1000 / WINDOW) * (area.right - area.left);
      pen.textAlign = ago === 0 ? "right" : "center";
      pen.fillText(ago === 0 ? "now" : `−${ago} s`, at, area.bottom + 6);
    }
  }

  drawLine(pen, area, x, y, now, colour) {
    const shown = this.points.slice();
    if (this.pendingSince !== undefined) {
      // One that is not answered yet is as late as it is by now, and so are those that could not
      // be sent because of it: a freeze shows while it lasts.
      for (let at = this.pendingSince; at < now; at += INTERVAL) {
        shown.push({ at, took: now - at });
      }
    }
    pen.save();
    pen.beginPath();
    pen.rect(area.left, area.top, area.right - area.left, area.bottom - area.top);
    pen.clip();
    pen.strokeStyle = colour("accent");
    pen.fillStyle = colour("accent");
    pen.lineWidth = 2;
    pen.lineJoin = "round";
    pen.beginPath();
    let before;
    for (const point of shown) {
      // A gap where the page was hidden and did not ask.
      if (before === undefined || point.at - before > 1000) {
        pen.moveTo(x(point.at), y(point.took));
      } else {
        pen.lineTo(x(point.at), y(point.took));
      }
      before = point.at;
    }
    pen.stroke();
    const last = shown.at(-1);
    if (last) {
      pen.beginPath();
      pen.arc(Math.min(x(last.at), area.right - 4), y(last.took), 3.5, 0, 2 * Math.PI);
      pen.fill();
    }
    pen.restore();
  }
}
