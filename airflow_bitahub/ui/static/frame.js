// The Airflow UI shows these pages in a frame. They are light or dark as it is.
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

if (parent !== window) followTheme();
