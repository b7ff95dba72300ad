// Light or dark as it was chosen here, before anything is drawn; as the system has it where nothing was.
"use strict";
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("loiter.theme");
  } catch {
    // Storage may be switched off: then the choice lasts as long as the page.
  }
  if (navigator.clipboard) document.documentElement.classList.add("can-copy");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
