// A phone as a camera: takes pictures, and sends each until there is an answer.
// Pictures that wait are in this page's memory: they are lost when it is closed, which it says.

const FIRST_PAUSE_MS = 2000;
const LONGEST_PAUSE_MS = 60000;
const ANSWER_MS = 60000;
const QUALITY = 0.9;
const SHOWN_PICTURES = 30;
const KEY = "capturekit-device-token";

const byId = (id) => document.getElementById(id);
const waiting = [];
let token = tokenFromAddress() ?? sessionStorage.getItem(KEY);
let isSending = false;
let timer;
let stream;

// A link may carry the token behind "#", which a browser never sends to a server.
function tokenFromAddress() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) {
    sessionStorage.setItem(KEY, found);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return found;
}

// crypto.randomUUID is missing where the page came by plain HTTP.
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `phone-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function tell(picture, text, className = "") {
  picture.line.textContent = text;
  picture.line.className = className;
}

function showWaiting() {
  const count = waiting.length;
  byId("connection").textContent = count ? `${count} ${count === 1 ? "picture waits" : "pictures wait"}` : "";
}

function add(blob) {
  const row = document.createElement("li");
  const image = document.createElement("img");
  const address = URL.createObjectURL(blob);
  image.addEventListener("load", () => URL.revokeObjectURL(address));
  image.addEventListener("error", () => URL.revokeObjectURL(address));
  image.src = address;
  image.alt = `Picture of ${new Date().toLocaleTimeString()}`;
  const line = document.createElement("p");
  row.append(image, line);
  byId("pictures").prepend(row);
  byId("pictures-empty").hidden = true;
  const picture = { blob, line, key: newKey(), takenAt: new Date().toISOString(), failures: 0 };
  waiting.push(picture);
  tell(picture, "waits");
  // Those that wait keep their lines.
  const settled = [...byId("pictures").children].filter((one) => !waiting.some(({ line: its }) => one.contains(its)));
  settled.slice(SHOWN_PICTURES).forEach((one) => one.remove());
  showWaiting();
  send();
}

function post(picture) {
  const form = new FormData();
  form.append("captured_at", picture.takenAt);
  form.append("trigger_type", "phone");
  form.append("image", picture.blob, "picture.jpg");
  return fetch("v1/ingest", {
    method: "POST",
    body: form,
    headers: { Authorization: `Bearer ${token}`, "Idempotency-Key": picture.key },
    signal: AbortSignal.timeout(ANSWER_MS),
  });
}

// One after the other, the oldest first; what cannot be sent now is sent again later.
async function send() {
  if (isSending || !token) return;
  isSending = true;
  clearTimeout(timer);
  try {
    while (waiting.length) {
      const picture = waiting[0];
      tell(picture, "is being sent");
      const pauseMs = await trySending(picture);
      if (pauseMs !== undefined) {
        timer = setTimeout(send, pauseMs);
        break;
      }
      if (!token) break;
    }
  } finally {
    isSending = false;
    showWaiting();
  }
}

// How long to wait before the next try; undefined when this one needs none.
async function trySending(picture) {
  let answer;
  let told = {};
  try {
    answer = await post(picture);
    told = await answer.json().catch(() => ({}));
  } catch {
    return putOff(picture, "no answer");
  }
  if (answer.status === 401 || answer.status === 403) {
    tell(picture, "waits for a token");
    showSignIn(told.detail ?? "This token is not, or no longer, a device's.");
  } else if (answer.ok) {
    waiting.shift();
    tell(picture, told.duplicate ? "stored before" : "stored", "is-stored");
  } else if ([408, 429].includes(answer.status) || answer.status >= 500) {
    return putOff(picture, `the server answered ${answer.status}`, Number(answer.headers.get("Retry-After")));
  } else {
    waiting.shift();
    tell(picture, `refused: ${told.detail ?? answer.status}`, "is-refused");
  }
  showWaiting();
  return undefined;
}

function putOff(picture, why, askedS = 0) {
  const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** picture.failures);
  picture.failures += 1;
  tell(picture, `${why}; it is sent again`);
  return Math.max((askedS || 0) * 1000, longest * (0.5 + Math.random() / 2));
}

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    showNoCamera("A browser lets pages use the camera over HTTPS only; a picture can be chosen, or taken, below.");
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: false,
      video: { facingMode: { ideal: "environment" }, width: { ideal: 1920 }, height: { ideal: 1440 } },
    });
  } catch (error) {
    showNoCamera(`The camera cannot be used (${error.name}); a picture can be chosen, or taken, below.`);
    return;
  }
  const view = byId("view");
  view.srcObject = stream;
  view.hidden = false;
  stream.getVideoTracks()[0].addEventListener("ended", () => showNoCamera("The camera was taken away."));
  await view.play().catch(() => {});
  byId("shutter").hidden = false;
  byId("shutter").focus();
}

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = undefined;
  byId("view").srcObject = null;
}

function showNoCamera(why) {
  closeCamera();
  byId("view").hidden = true;
  byId("shutter").hidden = true;
  byId("no-camera").textContent = why;
  byId("no-camera").hidden = false;
}

function shoot() {
  const view = byId("view");
  if (!view.videoWidth) return;
  const canvas = document.createElement("canvas");
  canvas.width = view.videoWidth;
  canvas.height = view.videoHeight;
  canvas.getContext("2d").drawImage(view, 0, 0);
  canvas.toBlob((blob) => blob && add(blob), "image/jpeg", QUALITY);
}

function showSignIn(message = "") {
  token = null;
  sessionStorage.removeItem(KEY);
  closeCamera();
  byId("camera").hidden = true;
  byId("sign-out").hidden = true;
  byId("sign-in").hidden = false;
  byId("sign-in-error").textContent = message;
  byId("token").focus();
}

function showCamera() {
  byId("sign-in").hidden = true;
  byId("camera").hidden = false;
  byId("sign-out").hidden = false;
  openCamera();
  send();
}

byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  sessionStorage.setItem(KEY, token);
  byId("token").value = "";
  showCamera();
});
byId("sign-out").addEventListener("click", () => showSignIn());
byId("shutter").addEventListener("click", shoot);
byId("file").addEventListener("change", () => {
  for (const file of byId("file").files) add(file);
  byId("file").value = "";
});
window.addEventListener("online", send);
window.addEventListener("beforeunload", (event) => {
  if (waiting.length) event.preventDefault();
});

if (token) showCamera();
else showSignIn();
