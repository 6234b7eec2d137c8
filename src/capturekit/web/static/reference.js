// The reference, made of openapi.json. Texts become text nodes only: nothing in it can be a tag.

const WHOM = { device: "the device's own token", token: "a token", session: "a session" };
let spec;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Text with `code` in it, the only markup that docstrings use.
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));
}

function paragraphs(text) {
  return text.split(/\n\s*\n/).map((part) => element("p", {}, ...prose(part.replace(/\s+/g, " "))));
}

function resolved(node) {
  if (!node.$ref) return node;
  return node.$ref.slice(2).split("/").reduce((found, key) => found[key], spec);
}

function nameOf(schema) {
  return schema.$ref ? schema.$ref.split("/").pop() : schema.title;
}

function isNull(schema) {
  return schema.type === "null";
}

function choicesOf(schema) {
  return schema.anyOf ?? schema.oneOf ?? [];
}

// A short name of a type, such as "list of StockRow, or null".
function typeOf(schema) {
  const choices = choicesOf(schema);
  if (choices.length) {
    const names = choices.filter((one) => !isNull(one)).map(typeOf);
    return names.join(" or ") + (choices.some(isNull) ? ", or null" : "");
  }
  if (schema.$ref) {
    const whole = resolved(schema);
    return whole.enum ? whole.enum.map((one) => JSON.stringify(one)).join(" | ") : nameOf(schema);
  }
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.type === "array") return "list of " + (schema.items ? typeOf(schema.items) : "anything");
  if (schema.type === "object" && typeof schema.additionalProperties === "object")
    return "object of " + typeOf(schema.additionalProperties);
  return (schema.type ?? "anything") + (schema.format ? ` (${schema.format})` : "");
}

const BOUNDS = {
  minimum: "at least", exclusiveMinimum: "more than", maximum: "at most", minLength: "letters from",
  maxLength: "letters up to", minItems: "items from", maxItems: "items up to", pattern: "like",
};

function notesOf(schema) {
  const parts = [schema, ...choicesOf(schema)];
  const notes = parts.flatMap((part) =>
    Object.keys(BOUNDS).filter((key) => key in part).map((key) => `${BOUNDS[key]} ${part[key]}`));
  if (schema.default !== undefined && schema.default !== null)
    notes.push(`default ${JSON.stringify(schema.default)}`);
  return notes.length ? ` (${notes.join(", ")})` : "";
}

// The object whose members are worth showing below a schema, if there is one.
function objectsIn(schema) {
  const whole = resolved(schema);
  if (whole.properties) return [schema];
  const inner = [...choicesOf(whole), whole.items, whole.additionalProperties];
  return inner.filter((one) => one && typeof one === "object").flatMap(objectsIn);
}

function members(schema, seen = []) {
  const whole = resolved(schema);
  const list = element("ul", { class: "members" });
  for (const [name, member] of Object.entries(whole.properties ?? {})) {
    const line = [element("code", {}, name), " ", element("span", { class: "type" }, typeOf(member) + notesOf(member))];
    if (whole.required?.includes(name)) line.push(element("span", { class: "must" }, " required"));
    const about = member.description ?? "";
    if (about) line.push(" – ", ...prose(about));
    const inner = objectsIn(member).filter((one) => !seen.includes(nameOf(one)));
    list.append(inner.length ? folded(line, inner, [...seen, nameOf(schema)]) : element("li", {}, ...line));
  }
  return list;
}

// Members of members are made when they are asked for: the whole tree would be thousands of lines.
function folded(line, inner, seen) {
  const details = element("details", {}, element("summary", {}, ...line));
  details.addEventListener("toggle", () => {
    if (details.childElementCount === 1) details.append(...inner.map((one) => members(one, seen)));
  });
  return element("li", {}, details);
}

function content(contents) {
  return Object.entries(contents ?? {}).flatMap(([type, { schema }]) => {
    const shown = [element("p", {}, element("code", {}, type), " ", typeOf(schema))];
    for (const one of objectsIn(schema)) {
      shown.push(members(one));
      for (const example of resolved(one).examples ?? [])
        shown.push(element("pre", { tabindex: "0", "aria-label": "Example" }, JSON.stringify(example, null, 2)));
    }
    return shown;
  });
}

function parameters(all) {
  const list = element("ul", { class: "members" });
  for (const one of all) {
    const line = [element("code", {}, one.name), ` in ${one.in}: `,
      element("span", { class: "type" }, typeOf(one.schema) + notesOf(one.schema))];
    if (one.required) line.push(element("span", { class: "must" }, " required"));
    if (one.description) line.push(" – ", ...prose(one.description));
    if (one.example) line.push(" Such as ", element("code", {}, one.example), ".");
    list.append(element("li", {}, ...line));
  }
  return list;
}

function answer([status, node]) {
  const whole = resolved(node);
  const title = element("summary", {}, element("code", {}, status), " ", whole.description);
  const headers = Object.keys(whole.headers ?? {}).join(", ");
  const details = element("details", { class: "answer" }, title, ...content(whole.content));
  if (headers) details.append(element("p", { class: "quiet" }, `Headers: ${headers}`));
  details.open = status.startsWith("2");
  return details;
}

function body(operation) {
  const schemes = operation.security.flatMap(Object.entries);
  const role = schemes.flatMap(([, roles]) => roles)[0];
  const whom = schemes.map(([name]) => WHOM[name] ?? name).join(" or ") + (role ? ` of the role ${role}` : "");
  const made = element("div", { class: "body" }, ...paragraphs(operation.description),
    element("p", { class: "quiet" }, whom ? `Needs ${whom}.` : "Needs no token."));
  if (operation.parameters)
    made.append(element("h3", {}, "Parameters"), parameters(operation.parameters));
  if (operation.requestBody) {
    const title = operation.requestBody.required ? "Body" : "Body, if any";
    made.append(element("h3", {}, title), ...content(operation.requestBody.content));
  }
  made.append(element("h3", {}, "Answers"), ...Object.entries(operation.responses).map(answer));
  return made;
}

function operationOf(path, method, operation) {
  const made = element("details", { class: "operation", id: operation.operationId },
    element("summary", {},
      element("span", { class: `method ${method.toUpperCase()}` }, method.toUpperCase()),
      element("span", { class: "path" }, path),
      element("span", { class: "summary" }, ...prose(operation.summary))));
  made.dataset.words = `${method} ${path} ${operation.operationId} ${operation.summary}`.toLowerCase();
  made.addEventListener("toggle", () => {
    if (made.open && made.childElementCount === 1) made.append(body(operation));
  });
  return made;
}

function show() {
  document.getElementById("version").textContent = spec.info.version;
  document.getElementById("about").append(...paragraphs(spec.info.description));
  for (const { name } of spec.tags) {
    const id = `part-${name.toLowerCase()}`;
    const section = element("section", { id, "aria-label": name }, element("h2", {}, name));
    for (const [path, methods] of Object.entries(spec.paths))
      for (const [method, operation] of Object.entries(methods))
        if (operation.tags.includes(name)) section.append(operationOf(path, method, operation));
    document.getElementById("operations").append(section);
    document.getElementById("parts").append(element("li", {}, element("a", { href: `#${id}` }, name)));
  }
}

function filter() {
  const wanted = document.getElementById("filter").value.trim().toLowerCase().split(/\s+/);
  let found = 0;
  for (const section of document.querySelectorAll("#operations section")) {
    let shown = 0;
    for (const one of section.querySelectorAll(".operation")) {
      one.hidden = !wanted.every((word) => one.dataset.words.includes(word));
      if (!one.hidden) shown += 1;
    }
    section.hidden = !shown;
    found += shown;
  }
  document.getElementById("found").textContent = `${found} operations`;
}

// A link to one operation opens it.
function follow() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.classList.contains("operation")) target.open = true;
  target?.scrollIntoView();
}

try {
  spec = await (await fetch("openapi.json")).json();
  show();
  filter();
  follow();
  document.getElementById("filter").addEventListener("input", filter);
  window.addEventListener("hashchange", follow);
} catch (error) {
  document.getElementById("found").textContent = `openapi.json cannot be shown: ${error.message}`;
}
