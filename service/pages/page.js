"use strict";
const at = (id) => document.getElementById(id);

function headers() {
  const key = at("key").value.trim();
  return key ? { "X-API-Key": key } : {};
}

async function send(path, file) {
  const chosen = at("model").value;
  const query = new URLSearchParams(chosen ? { model: chosen } : {});
  const [base, own] = path.split("?");
  new URLSearchParams(own).forEach((value, name) => query.set(name, value));
  const answer = await fetch(`${base}?${query}`, { method: "POST", body: file, headers: headers() });
  if (!answer.ok) {
    const problem = await answer.json();
    throw new Error(`${problem.detail} (${problem.code})`);
  }
  return answer;
}

async function show(id, path, file) {
  const answer = await send(path, file);
  URL.revokeObjectURL(at(id).src);
  at(id).src = URL.createObjectURL(await answer.blob());
  return answer;
}

function fill(body) {
  at("rows").replaceChildren(...body.predictions.map((found) => {
    const row = document.createElement("tr");
    const [label, number, bar] = [0, 1, 2].map(() => row.appendChild(document.createElement("td")));
    label.textContent = found.label;
    number.textContent = found.probability.toFixed(4);
    const meter = bar.appendChild(document.createElement("meter"));
    meter.value = found.probability;
    return row;
  }));
  const { format, width, height, notes } = body.input;
  const model = `${body.model.name} version ${body.model.version} (${body.model.variant})`;
  at("about").textContent = [model, `${format} ${width}x${height}`, ...notes].join(" · ");
  at("raw").textContent = JSON.stringify(body, null, 1);
  const [{ label, probability }] = body.predictions;
  at("best").textContent = `${label}, ${(100 * probability).toFixed(1)} %`;
}

function shellLine(file) {
  const key = at("key").value.trim() ? " -H 'X-API-Key: …'" : "";
  const name = file.name.replaceAll("'", "'\\''");
  return `curl${key} --data-binary '@${name}' '${location.origin}/predict?model=${at("model").value}'`;
}

async function classify(file) {
  if (!file) return;
  at("error").textContent = "";
  at("busy").textContent = "Classifying…";
  try {
    fill(await (await send("/predict", file)).json());
    at("given").src = URL.createObjectURL(file);
    await show("saw", "/explain?view=pixels", file);
    const why = await show("why", "/explain?view=overlay", file);
    at("method").textContent = `What decided (${why.headers.get("Clearsight-Class").split("method=")[1]})`;
    at("shell").textContent = shellLine(file);
    at("answer").hidden = false;
  } catch (error) {
    at("answer").hidden = true;
    at("error").textContent = error.message;
  }
  at("busy").textContent = "";
}

let served = [];

async function tellLabels() {
  const one = served.find(({ name, role }) => name === at("model").value && role === "champion");
  const answer = one && await fetch(`/models/${one.name}/versions/${one.version}`, { headers: headers() });
  if (!answer || !answer.ok) return;
  const { labels } = await answer.json();
  const more = labels.length > 20 ? `, and ${labels.length - 20} more` : "";
  at("knows").textContent = `It knows ${labels.length} labels, and gives one of them to any image: `
    + `${labels.slice(0, 20).join(", ")}${more}.`;
}

async function listModels() {
  const answer = await fetch("/models", { headers: headers() });
  if (answer.status === 401) at("needed").hidden = false;
  if (!answer.ok) {
    at("error").textContent = (await answer.json()).detail;
    return;
  }
  at("error").textContent = "";
  const { default: first, models } = await answer.json();
  served = models.filter((one) => one.state === "ready");
  const names = [...new Set(served.map((one) => one.name))];
  at("model").replaceChildren(...names.map((name) => new Option(name, name, name === first, name === first)));
  if (!names.length) at("error").textContent = "No model is ready yet; see /readyz.";
  await tellLabels();
}

at("file").addEventListener("change", () => classify(at("file").files[0]));
at("model").addEventListener("change", () => { tellLabels(); classify(at("file").files[0]); });
at("key").addEventListener("change", listModels);
at("drop").addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
at("drop").addEventListener("dragleave", () => at("drop").classList.remove("over"));
at("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  at("file").files = event.dataTransfer.files;
  classify(at("file").files[0]);
});
listModels();
