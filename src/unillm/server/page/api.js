// SPDX-License-Identifier: Apache-2.0

// The server's API. Every address is relative, so that the page works under a path.

export class ApiError extends Error {}

/** Return the JSON of an endpoint. */
export async function get(path) {
  const response = await fetch(path);
  if (!response.ok) {
    throw await failure(response);
  }
  return response.json();
}

/** Return the state of the server in a word. */
export async function health() {
  const response = await fetch("health");
  if (!response.ok) {
    return (await failure(response)).message;
  }
  await response.text();
  return "ready";
}

/**
 * Send a request that streams. Calls `onChunk` with each chunk and returns the id of the
 * request.
 */
export async function stream(path, body, signal, onChunk) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  if (!response.ok) {
    throw await failure(response);
  }
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      break;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) {
      throw new ApiError(chunk.error.message);
    }
    onChunk(chunk);
  }
  return response.headers.get("x-request-id");
}

/** Yield the data of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) {
      return;
    }
    rest += value;
    const whole = rest.split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      if (event.startsWith("data: ")) {
        yield event.slice("data: ".length);
      }
    }
  }
}

async function failure(response) {
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // The answer is not one of the server's: a proxy's, perhaps.
  }
  return new ApiError(message);
}
