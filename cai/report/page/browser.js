// The browser of replies: filters the rows in the page and shows them. Data is shown as text alone.
"use strict";
(() => {
  const BATCH = 20; // prompts that one press of "more" adds
  const byId = (id) => document.getElementById(id);
  const form = byId("browser-form");
  if (!form) return;
  const { subjects, rows } = JSON.parse(byId("browser-data").textContent);
  const list = byId("browser-results");
  const more = byId("browser-more");
  const unfold = byId("browser-unfold");
  let matches = [];
  let visible = 0;

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const words = (name) => name.replaceAll("_", " ");
  const count = (n) => n + (n === 1 ? " prompt" : " prompts");
  const kindOf = (row) => row.kind || "unknown kind";

  // ---- filters ----

  function verdict(reply) {
    if (reply.unscored !== null || reply.correct === null) return "not graded";
    return reply.correct ? "correct" : "incorrect";
  }

  function addOptions(name, values) {
    const select = form.elements[name];
    for (const value of [...new Set(values)].filter((value) => value !== null).sort()) {
      const option = element("option", "", name === "subject" ? subjects[value] : words(value));
      option.value = value;
      select.append(option);
    }
    select.closest("label").hidden = select.options.length < 2;
  }

  // Once for each row: the texts that the search looks through.
  const texts = rows.map((row) =>
    [...row.prompt.map((turn) => turn[1]), ...row.replies.map((reply) => reply.text)]
      .join("\n")
      .toLowerCase()
  );

  function settings() {
    const chosen = {};
    for (const name of ["kind", "category", "subject", "verdict", "class", "style"]) {
      chosen[name] = form.elements[name].value;
    }
    chosen.differing = form.elements.differing.checked;
    chosen.text = form.elements.text.value.trim().toLowerCase();
    return chosen;
  }

  function fits(row, index, chosen) {
    if (chosen.kind && kindOf(row) !== chosen.kind) return false;
    if (chosen.category && row.category !== chosen.category) return false;
    if (chosen.text && !texts[index].includes(chosen.text)) return false;
    if (chosen.differing && new Set(row.replies.map(verdict)).size < 2) return false;
    const isMeant = (reply) =>
      (!chosen.subject || reply.subject === Number(chosen.subject)) &&
      (!chosen.verdict || verdict(reply) === chosen.verdict) &&
      (!chosen.class || reply.class === chosen.class) &&
      (!chosen.style || reply.style === chosen.style);
    return row.replies.some(isMeant);
  }

  // ---- what is shown ----

  function gradeText(reply) {
    if (reply.unscored !== null) return "not graded: " + reply.unscored;
    const parts = [verdict(reply), reply.class, reply.style, reply.degree];
    return [...new Set(parts.filter((part) => part !== null))].map(words).join(", ");
  }

  function details(reply) {
    let text = gradeText(reply);
    if (reply.reward !== null) text += " \u00b7 reward " + reply.reward.toFixed(2);
    if (!reply.finished) text += " \u00b7 cut at the token limit";
    return text;
  }

  function textNode(text) {
    const node = element("div", "text", text);
    node.dir = "auto";
    return node;
  }

  function body(row) {
    const node = element("div", "example");
    for (const [role, text] of row.prompt) {
      const turn = element("div", "turn");
      turn.append(element("span", "role", role), textNode(text));
      node.append(turn);
    }
    const columns = element("div", "columns");
    for (const reply of row.replies) {
      const column = element("div", verdict(reply) === "incorrect" ? "incorrect" : "");
      const title = element("h4", "label", subjects[reply.subject]);
      column.append(title, textNode(reply.text), element("div", "grade", details(reply)));
      columns.append(column);
    }
    node.append(columns);
    return node;
  }

  function article(row) {
    const node = element("article", "card");
    const draw = row.draw ? "draw " + (row.draw + 1) : null;
    const title = [kindOf(row), row.category, draw].filter((part) => part !== null);
    node.append(element("h3", "label", title.join(" \u00b7 ")));
    if (row.kind === "benign") {
      node.append(body(row));
      return node;
    }
    const fold = element("details", "fold");
    const summary = element("summary");
    const outcomes = row.replies.map((reply) => subjects[reply.subject] + ": " + verdict(reply));
    summary.append(element("b", "", "May be harmful."), " " + outcomes.join("; "));
    fold.append(summary, body(row));
    fold.open = unfold.checked;
    node.append(fold);
    return node;
  }

  function showMore() {
    const batch = matches.slice(visible, visible + BATCH).map(article);
    list.append(...batch);
    visible += batch.length;
    const left = matches.length - visible;
    more.hidden = left === 0;
    more.textContent = "Show " + Math.min(BATCH, left) + " more of " + left;
    return batch[0];
  }

  function filter() {
    const chosen = settings();
    matches = rows.filter((row, index) => fits(row, index, chosen));
    visible = 0;
    list.replaceChildren();
    showMore();
    byId("browser-count").textContent = matches.length
      ? count(matches.length) + " of " + rows.length
      : "No prompt fits. Change a filter, or reset them.";
  }

  // ---- events ----

  let waiting;
  form.addEventListener("input", (event) => {
    if (event.target === unfold) return;
    clearTimeout(waiting);
    waiting = setTimeout(filter, event.target.type === "search" ? 150 : 0);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    filter();
  });
  form.addEventListener("reset", () => {
    waiting = setTimeout(filter); // the fields change after this event
  });
  unfold.addEventListener("change", () => {
    for (const fold of list.querySelectorAll("details")) fold.open = unfold.checked;
  });
  more.addEventListener("click", () => {
    const first = showMore();
    if (more.hidden && first) {
      first.tabIndex = -1; // the button with the focus is gone
      first.focus();
    }
  });

  const replies = rows.flatMap((row) => row.replies);
  addOptions("kind", rows.map(kindOf));
  addOptions("category", rows.map((row) => row.category));
  addOptions("subject", subjects.keys());
  addOptions("verdict", replies.map(verdict));
  addOptions("class", replies.map((reply) => reply.class));
  addOptions("style", replies.map((reply) => reply.style));
  filter();
  byId("browser").hidden = false;
  byId("first-replies").hidden = true;
})();
