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

// A link to Airflow leads the whole window there. The frame's sandbox lets only the window's own links do so.
function leaveFrame(event) {
  const link = event.target.closest("a[data-airflow]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const own = parent.document.createElement("a");
  own.href = link.href;
  parent.document.body.append(own);
  own.click();
  own.remove();
}

if (parent !== window) {
  followTheme();
  document.addEventListener("click", leaveFrame);
}
