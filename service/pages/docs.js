"use strict";

function add(parent, tag, text = "") {
  const child = parent.appendChild(document.createElement(tag));
  child.textContent = text;
  return child;
}

function nameOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(nameOf).join(" or ");
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.type === "array") return `[${nameOf(schema.items)}]`;
  return schema.format || schema.type || JSON.stringify(schema);
}

const contents = (content) =>
  Object.entries(content || {}).map(([media, { schema }]) => `${media}: ${nameOf(schema)}`).join("; ");

function row(table, ...cells) {
  const line = add(table, "tr");
  cells.forEach((cell) => add(line, "td", cell));
}

function describe(parent, method, path, operation) {
  const block = add(parent, "details");
  const head = add(block, "summary");
  add(head, "b", method.toUpperCase());
  add(head, "code", path);
  head.append(` ${operation.summary}`);
  if (operation.description) add(block, "p", operation.description);
  const table = add(block, "table");
  (operation.parameters || []).forEach((one) => row(table, one.name, one.in, nameOf(one.schema), one.description || ""));
  if (operation.requestBody) row(table, "body", "", contents(operation.requestBody.content), "");
  Object.entries(operation.responses).forEach(([status, one]) =>
    row(table, status, "answer", contents(one.content), one.description));
}

async function main() {
  const api = await (await fetch("/openapi.json")).json();
  const tags = new Map();
  Object.entries(api.paths).forEach(([path, methods]) =>
    Object.entries(methods).forEach(([method, operation]) => {
      const tag = operation.tags[0];
      if (!tags.has(tag)) tags.set(tag, []);
      tags.get(tag).push([method, path, operation]);
    }));
  tags.forEach((operations, tag) => {
    add(document.getElementById("operations"), "h2", tag);
    operations.forEach((one) => describe(document.getElementById("operations"), ...one));
  });
  Object.entries(api.components.schemas).forEach(([name, schema]) => {
    const block = add(document.getElementById("schemas"), "details");
    add(block, "summary", name);
    add(block, "pre", JSON.stringify(schema, null, 1));
  });
}

main();
