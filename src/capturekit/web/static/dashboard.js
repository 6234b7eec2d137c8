// The dashboard asks the API every two seconds and shows what changed.
// Texts from the API are only ever set as text, never as HTML.

const REFRESH_MS = 2000;
const SHOWN_CAPTURES = 8;
const SHOWN_STOCK = 200;

const byId = (id) => document.getElementById(id);
const shownQuantities = new Map();
const thumbnails = new Map();
let token = tokenFromAddress() ?? sessionStorage.getItem("capturekit-token");
let who = null;
let timer;

class SignedOut extends Error {}

// A link may carry the token behind "#", which a browser never sends to a server.
function tokenFromAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) {
    sessionStorage.setItem("capturekit-token", found);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return found;
}

// Without a token the browser sends the cookie of a session, if there is one.
async function ask(path) {
  const answer = await fetch(path, { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  if (answer.status === 401 || answer.status === 403) throw new SignedOut();
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer;
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function ago(isoTime) {
  if (!isoTime) return "never";
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(isoTime)) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(isoTime).toLocaleDateString();
}

function showNumbers(stats) {
  const { captures, queue, devices, inventory } = stats;
  const numbers = [
    ["Cameras", devices, (block) => block.active],
    ["Items in stock", inventory, (block) => block.items_in_stock],
    ["Pictures", captures, (block) => block.total],
    ["Being processed", queue, (block) => block.active_jobs],
    ["Waiting", queue, (block) => block.total_queued],
    ["Failed", captures, (block) => block.failed],
  ];
  byId("numbers").replaceChildren(...numbers.map(([name, block, value]) => {
    const card = element("div");
    const isKnown = block.status === "ok";
    const isBad = isKnown && name === "Failed" && value(block) > 0;
    const className = isKnown ? (isBad ? "is-bad" : "") : "is-unknown";
    card.append(
      element("dt", name),
      element("dd", isKnown ? value(block).toLocaleString() : "unavailable", className),
    );
    return card;
  }));
}

function showStock({ items, next }) {
  const wanted = byId("filter").value.trim().toLowerCase();
  const rows = items.filter((row) => `${row.name} ${row.location}`.toLowerCase().includes(wanted));
  byId("stock").replaceChildren(...rows.map((row) => {
    const line = element("tr", undefined, row.quantity === 0 ? "is-zero" : "");
    const key = `${row.item_id} ${row.location}`;
    if (shownQuantities.has(key) && shownQuantities.get(key) !== row.quantity) {
      line.classList.add("is-changed");
    }
    shownQuantities.set(key, row.quantity);
    const quantity = row.unit ? `${row.quantity} ${row.unit}` : `${row.quantity}`;
    line.append(
      element("td", row.name),
      element("td", row.location),
      element("td", quantity, "number"),
      element("td", ago(row.last_seen_at)),
    );
    return line;
  }));
  byId("stock-empty").hidden = items.length > 0;
  byId("stock-more").hidden = !next;
  byId("stock-more").textContent = `The first ${items.length} are shown.`;
}

async function thumbnail(capture) {
  if (!capture.has_thumbnail) return null;
  if (!thumbnails.has(capture.capture_id)) {
    const answer = await ask(`v1/captures/${encodeURIComponent(capture.capture_id)}/thumbnail`);
    thumbnails.set(capture.capture_id, URL.createObjectURL(await answer.blob()));
  }
  return thumbnails.get(capture.capture_id);
}

async function showCaptures({ captures }) {
  const cards = await Promise.all(captures.map(async (capture) => {
    const card = element("li");
    const source = await thumbnail(capture);
    const picture = element(source ? "img" : "div", undefined, "picture");
    if (source) {
      picture.src = source;
      picture.alt = `Picture of ${capture.device_id}`;
    }
    const caption = element("div", undefined, "caption");
    const isFailed = capture.state === "failed";
    const state = isFailed ? `failed: ${capture.error?.message ?? "no cause known"}` : capture.state;
    caption.append(
      element("strong", capture.device_id),
      element("span", `${state}, ${ago(capture.captured_at)}`, isFailed ? "is-failed" : ""),
    );
    card.append(picture, caption);
    return card;
  }));
  byId("captures").replaceChildren(...cards);
  byId("captures-empty").hidden = captures.length > 0;
  const shown = new Set(captures.map((capture) => capture.capture_id));
  for (const [id, address] of thumbnails) {
    if (!shown.has(id)) {
      URL.revokeObjectURL(address);
      thumbnails.delete(id);
    }
  }
}

function showConnection(text, className) {
  byId("connection").textContent = text;
  byId("connection").className = className;
}

function showSignIn(message = "", field = "name") {
  token = who = null;
  sessionStorage.removeItem("capturekit-token");
  byId("dashboard").hidden = true;
  byId("sign-out").hidden = true;
  byId("who").hidden = true;
  byId("sign-in").hidden = false;
  byId("sign-in-error").textContent = message;
  showConnection("not signed in", "");
  byId("other-way").open ||= field === "token";
  byId(field).focus();
}

async function refresh() {
  clearTimeout(timer);
  try {
    who ??= await (await ask("v1/session")).json();
    const answers = await Promise.all([
      ask("v1/admin/stats"),
      ask(`v1/inventory?limit=${SHOWN_STOCK}`),
      ask(`v1/captures?limit=${SHOWN_CAPTURES}`),
    ]);
    const [stats, stock, captures] = await Promise.all(answers.map((answer) => answer.json()));
    showNumbers(stats);
    showStock(stock);
    await showCaptures(captures);
    byId("sign-in").hidden = true;
    byId("dashboard").hidden = false;
    byId("sign-out").hidden = false;
    byId("who").hidden = false;
    byId("who").textContent = `${who.name} (${who.role})`;
    showConnection("live", "is-live");
  } catch (error) {
    if (error instanceof SignedOut) {
      if (token) showSignIn("This token is not, or no longer, one that shows the dashboard.", "token");
      else showSignIn(who ? "This session is over." : "");
      return;
    }
    showConnection(`no answer, trying again (${error.message})`, "is-lost");
  }
  timer = setTimeout(refresh, REFRESH_MS);
}

async function signIn(event) {
  event.preventDefault();
  const given = { name: byId("name").value.trim(), password: byId("password").value };
  byId("password").value = "";
  byId("sign-in-error").textContent = "";
  try {
    const answer = await fetch("v1/session", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(given),
    });
    if (answer.ok) return refresh();
    if (answer.status === 429) {
      const seconds = answer.headers.get("Retry-After");
      showSignIn(`Too many tries. Try again in ${seconds} s.`, "password");
    } else if (answer.status >= 500) {
      showSignIn(`The server answered ${answer.status}. Try again.`, "password");
    } else {
      showSignIn("Name or password is wrong.", "password");
    }
  } catch (error) {
    showSignIn(`No answer (${error.message}). Try again.`, "password");
  }
}

async function signOut() {
  clearTimeout(timer);
  if (who?.csrf_token) {
    try {
      const headers = { "X-CSRF-Token": who.csrf_token };
      const answer = await fetch("v1/session", { method: "DELETE", headers });
      if (!answer.ok && answer.status !== 401) throw new Error(`the server answered ${answer.status}`);
    } catch (error) {
      showConnection(`still signed in (${error.message})`, "is-lost");
      return;
    }
  }
  showSignIn();
}

byId("by-password").addEventListener("submit", signIn);
byId("by-token").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  sessionStorage.setItem("capturekit-token", token);
  byId("token").value = "";
  refresh();
});
byId("sign-out").addEventListener("click", signOut);
byId("filter").addEventListener("input", refresh);

refresh();
