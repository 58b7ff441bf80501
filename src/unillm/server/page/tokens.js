// SPDX-License-Identifier: Apache-2.0

// The tokens of an answer, each with the probabilities of its alternatives.

const shown = document.createElement("pre");
shown.className = "alternatives";
shown.setAttribute("role", "tooltip");
shown.id = "alternatives";

/** Return the tokens of a chunk as `{text, logprob, top: [{text, logprob}]}`. */
export function tokensOf(choice) {
  const logprobs = choice.logprobs;
  if (!logprobs) {
    return [];
  }
  if (logprobs.content) {
    return logprobs.content.map((each) => ({
      text: each.token,
      logprob: each.logprob,
      top: each.top_logprobs.map((one) => ({ text: one.token, logprob: one.logprob })),
    }));
  }
  return (logprobs.tokens ?? []).map((text, index) => ({
    text,
    logprob: logprobs.token_logprobs[index],
    top: Object.entries(logprobs.top_logprobs?.[index] ?? {}).map(
      ([other, logprob]) => ({ text: other, logprob }),
    ),
  }));
}

/** Add tokens to an element; each shows its alternatives under the pointer or focus. */
export function appendTokens(element, tokens) {
  for (const token of tokens) {
    const span = document.createElement("span");
    span.className = `token ${kind(Math.exp(token.logprob))}`;
    span.textContent = token.text;
    span.tabIndex = 0;
    const show = () => showAlternatives(span, token);
    span.addEventListener("pointerenter", show);
    span.addEventListener("focus", show);
    span.addEventListener("pointerleave", hide);
    span.addEventListener("blur", hide);
    element.append(span);
  }
}

function kind(probability) {
  if (probability > 0.9) {
    return "sure";
  }
  if (probability > 0.5) {
    return "likely";
  }
  return probability > 0.1 ? "unsure" : "rare";
}

function showAlternatives(span, token) {
  const rows = [...token.top].sort((a, b) => b.logprob - a.logprob);
  if (!rows.some((row) => row.text === token.text)) {
    rows.push(token);
  }
  shown.textContent = rows
    .map((row) => {
      const percent = (100 * Math.exp(row.logprob)).toFixed(2).padStart(6);
      const mark = row.text === token.text ? "→" : " ";
      return `${mark} ${percent} %  ${JSON.stringify(row.text)}`;
    })
    .join("\n");
  document.body.append(shown);
  span.setAttribute("aria-describedby", shown.id);
  const place = span.getBoundingClientRect();
  const below = place.bottom + shown.offsetHeight + 8 < window.innerHeight;
  const top = below ? place.bottom + 4 : place.top - shown.offsetHeight - 4;
  const left = Math.min(place.left, window.innerWidth - shown.offsetWidth - 8);
  shown.style.top = `${Math.max(4, top)}px`;
  shown.style.left = `${Math.max(4, left)}px`;
}

function hide() {
  shown.remove();
}
