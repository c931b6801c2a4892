// Takes a picture that is dropped on the page, which a page cannot do by itself.
"use strict";

function showAnswer(answer, fresh, files) {
  answer.replaceChildren(...fresh.childNodes);
  for (const place of answer.querySelectorAll("[data-preview]")) {
    const file = files[Number(place.dataset.preview)];
    if (!file) continue;
    const picture = document.createElement("img");
    picture.alt = file.name;
    picture.src = URL.createObjectURL(file);
    picture.onload = () => URL.revokeObjectURL(picture.src);
    place.append(picture);
  }
}

function prepareAsking(form) {
  const input = form.querySelector("input[type=file]");
  const answer = document.getElementById("answer");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    form.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(form.action, { method: "POST", body: new FormData(form), redirect: "manual" });
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("answer");
      if (!fresh) {
        location.reload(); // the session has ended, or the serving has gone
        return;
      }
      showAnswer(answer, fresh, [...input.files]);
    } finally {
      form.removeAttribute("aria-busy");
    }
  });
  form.addEventListener("dragover", (event) => {
    event.preventDefault();
    form.classList.add("over");
  });
  form.addEventListener("dragleave", () => form.classList.remove("over"));
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("over");
    if (event.dataTransfer.files.length) {
      input.files = event.dataTransfer.files;
      form.requestSubmit();
    }
  });
}

const form = document.getElementById("ask");
if (form) prepareAsking(form);
