// SPDX-License-Identifier: Apache-2.0

// The slots over the last seconds, drawn on a canvas.

const SECONDS = 30;

/** Draw what `GET /activity` has answered. */
export function draw(canvas, report) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();

  const recent = report.requests.filter(
    (each) => !each.done || (each.last_token ?? each.queued) < SECONDS,
  );
  const rows = lanes(recent, report.num_slots);
  const count = Math.max(1, ...rows.map((row) => row + 1));
  const step = Math.min(24, height / count);
  const x = (before) => width * (1 - Math.min(before, SECONDS) / SECONDS);

  recent.forEach((request, index) => {
    const top = rows[index] * step + step * 0.15;
    const thick = Math.max(2, step * 0.7);
    const started = request.first_token ?? (request.done ? request.queued : 0);
    const ended = request.done ? (request.last_token ?? started) : 0;
    context.fillStyle = colour("--wait");
    context.fillRect(
      x(request.queued), top + thick * 0.35, x(started) - x(request.queued), thick * 0.3,
    );
    if (request.first_token === null) {
      return;
    }
    context.fillStyle = colour("--accent");
    context.globalAlpha = request.done ? 0.6 : 1;
    context.fillRect(x(started), top, Math.max(2, x(ended) - x(started)), thick);
    context.globalAlpha = 1;
  });
  const running = recent.filter((each) => !each.done && each.first_token !== null);
  canvas.setAttribute(
    "aria-label",
    `The last ${SECONDS} seconds: ${recent.length} requests, ${running.length} generate`,
  );
}

/** Return a row for each request: its slot, or the first row that is free. */
function lanes(requests, numSlots) {
  const free = [];
  return requests.map((request) => {
    if (request.slot !== null) {
      return request.slot;
    }
    const begun = -request.queued;
    const ended = request.done ? -(request.last_token ?? request.queued) : 0;
    let row = free.findIndex((until) => until <= begun);
    if (row < 0) {
      row = free.length;
    }
    free[row] = request.done ? ended : Infinity;
    return Math.min(row, Math.max(numSlots, 1) * 2);
  });
}
