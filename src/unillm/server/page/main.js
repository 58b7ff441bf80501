// SPDX-License-Identifier: Apache-2.0

import { get, health, stream } from "./api.js";
import { draw } from "./timeline.js";
import { appendTokens, tokensOf } from "./tokens.js";

const POLL_MS = 500;
const TOP_LOGPROBS = 5;

const element = (id) => document.getElementById(id);
const conversation = element("conversation");
const prompt = element("prompt");

let mode = "chat";
let messages = [];
let running = null;

// ------------------------------------------------------------------------- requests

function parameters() {
  const given = { model: element("model").value };
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    const value = element(name).value;
    if (value !== "") {
      given[name] = Number(value);
    }
  }
  if (element("stop_text").value !== "") {
    given.stop = [element("stop_text").value];
  }
  given.stream_options = { include_usage: true };
  return given;
}

function requestOf(text) {
  const wantsTokens = element("show_tokens").checked;
  if (mode === "completion") {
    const logprobs = wantsTokens ? { logprobs: TOP_LOGPROBS } : {};
    return ["v1/completions", { ...parameters(), ...logprobs, prompt: text }];
  }
  const system = element("system").value.trim();
  const first = system ? [{ role: "system", content: system }] : [];
  const logprobs = wantsTokens ? { logprobs: true, top_logprobs: TOP_LOGPROBS } : {};
  const body = { ...parameters(), ...logprobs, messages: [...first, ...messages] };
  return ["v1/chat/completions", body];
}

async function send(text) {
  if (mode === "chat") {
    messages.push({ role: "user", content: text });
    addMessage("You").body.textContent = text;
  }
  const answer = addMessage(mode === "chat" ? "Model" : "Completion");
  if (mode === "completion") {
    const given = document.createElement("span");
    given.className = "of-prompt";
    given.textContent = text;
    answer.body.append(given);
  }
  const [path, body] = requestOf(text);
  running = new AbortController();
  showRunning(true);
  const begun = performance.now();
  let content = "";
  let usage = null;
  let first = null;
  let reason = null;
  try {
    const id = await stream(path, body, running.signal, (chunk) => {
      usage = chunk.usage ?? usage;
      const [choice] = chunk.choices;
      if (!choice) {
        return;
      }
      reason = choice.finish_reason ?? reason;
      const text = choice.delta?.content ?? choice.text ?? "";
      const tokens = tokensOf(choice);
      if (text || tokens.length) {
        first ??= performance.now();
      }
      if (choice.delta?.reasoning) {
        answer.reasoning.hidden = false;
        answer.reasoning.append(choice.delta.reasoning);
      }
      content += text;
      if (tokens.length) {
        appendTokens(answer.body, tokens);
      } else if (!body.logprobs) {
        answer.body.append(text);
      }
      conversation.scrollTop = conversation.scrollHeight;
    });
    await showFacts(answer, { id, usage, begun, first, reason });
  } catch (error) {
    if (error.name === "AbortError") {
      answer.facts.textContent = "stopped";
    } else {
      answer.whole.classList.add("fault");
      answer.facts.textContent = error.message;
      answer.facts.setAttribute("role", "alert");
    }
  } finally {
    running = null;
    showRunning(false);
  }
  if (mode === "chat") {
    messages.push({ role: "assistant", content });
  }
}

async function showFacts(answer, { id, usage, begun, first, reason }) {
  const facts = [];
  if (usage) {
    facts.push(`${usage.prompt_tokens} + ${usage.completion_tokens} tokens`);
  }
  if (first !== null) {
    facts.push(`first after ${(first - begun).toFixed(0)} ms`);
  }
  const { requests } = await get("activity");
  const found = requests.find((each) => each.id === id);
  if (found) {
    const seconds = found.first_token - found.last_token;
    if (found.tokens > 1 && seconds > 0) {
      facts.push(`${((found.tokens - 1) / seconds).toFixed(0)} tokens/s`);
    }
    facts.push(found.slot === null ? "no slot of its own" : `slot ${found.slot}`);
    if (found.waited_steps !== null) {
      facts.push(`waited ${found.waited_steps} steps`);
    }
  }
  if (reason) {
    facts.push(`ended by ${reason}`);
  }
  answer.facts.textContent = facts.join(" · ");
}

// ----------------------------------------------------------------------------- page

function addMessage(who) {
  const whole = document.createElement("article");
  whole.className = "message";
  const parts = {};
  for (const name of ["who", "reasoning", "body", "facts"]) {
    parts[name] = document.createElement("div");
    parts[name].className = name;
    whole.append(parts[name]);
  }
  parts.who.textContent = who;
  parts.reasoning.hidden = true;
  conversation.append(whole);
  conversation.scrollTop = conversation.scrollHeight;
  return { whole, ...parts };
}

function showRunning(on) {
  element("stop").hidden = !on;
  element("send").disabled = on;
}

function choose(kind) {
  mode = kind;
  for (const name of ["chat", "completion"]) {
    const tab = element(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === kind));
    tab.tabIndex = name === kind ? 0 : -1;
  }
  conversation.setAttribute("aria-labelledby", `tab-${kind}`);
  element("prompt-label").textContent = kind === "chat" ? "Message" : "Prompt";
  element("system").disabled = kind !== "chat";
  clear();
}

function clear() {
  running?.abort();
  messages = [];
  conversation.replaceChildren();
  prompt.focus();
}

async function poll() {
  if (!document.hidden) {
    try {
      const state = await health();
      element("health").textContent = state;
      element("health").className = state === "ready" ? "" : "fault";
      const report = await get("activity");
      const running = report.running ?? "–";
      const waiting = report.waiting ?? "–";
      element("counts").textContent =
        `${running} of ${report.num_slots} slots busy, ${waiting} requests wait`;
      draw(element("timeline"), report);
    } catch (error) {
      element("health").textContent = error.message;
      element("health").className = "fault";
    }
  }
  setTimeout(poll, POLL_MS);
}

async function listModels() {
  const { data } = await get("v1/models");
  for (const model of data) {
    element("model").append(new Option(model.id, model.id));
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("unillm-theme", theme);
  } catch {
    // Storage may be off; the choice then lasts as long as the page.
  }
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value;
  if (running === null && text.trim() !== "") {
    prompt.value = "";
    send(text);
  }
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    element("form").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "TEXTAREA", "SELECT"].includes(event.target.tagName);
  if (event.key === "Escape") {
    running?.abort();
  } else if (event.key === "/" && !typing) {
    event.preventDefault();
    prompt.focus();
  }
});
element("stop").addEventListener("click", () => running?.abort());
element("clear").addEventListener("click", clear);
for (const [kind, other] of [["chat", "completion"], ["completion", "chat"]]) {
  const tab = element(`tab-${kind}`);
  tab.addEventListener("click", () => choose(kind));
  tab.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      choose(other);
      element(`tab-${other}`).focus();
    }
  });
}
element("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  setTheme(now === "dark" ? "light" : "dark");
});

try {
  const kept = localStorage.getItem("unillm-theme");
  if (kept === "light" || kept === "dark") {
    setTheme(kept);
  }
} catch {
  // Storage is off.
}
if (matchMedia("(max-width: 50rem)").matches) {
  element("parameters").open = false;
}
listModels().catch((error) => {
  element("health").textContent = error.message;
});
poll();
prompt.focus();
