// The Airflow UI shows these pages in a frame. They are light or dark as it is, and links to other sites open a tab: the
// frame itself may not.
"use strict";

function followTheme() {
  const page = parent.document.documentElement;
  const take = () => {
    const theme = ["dark", "light"].find((name) => page.classList.contains(name));
    if (theme) document.documentElement.dataset.theme = theme;
  };
  take();
  new MutationObserver(take).observe(page, { attributeFilter: ["class"] });
}

function openOutside(event) {
  const link = event.target.closest("a[data-outside]");
  if (!link) return;
  event.preventDefault();
  parent.open(link.href, "_blank", "noopener,noreferrer");
}

if (parent !== window) {
  followTheme();
  addEventListener("click", openOutside);
}
