// Tells a person in one sentence that the app cannot run in this browser. Old JavaScript on purpose, and no part of the app.
(function () {
  function show(id) {
    var sentence = document.getElementById(id);
    if (sentence) sentence.hidden = false;
    document.documentElement.setAttribute("data-unusable", id);
  }
  function check() {
    if (window.isSecureContext === false) return show("no-https");
    var fits =
      "noModule" in document.createElement("script") &&
      "WebAssembly" in window &&
      "indexedDB" in window &&
      "BigInt64Array" in window &&
      "BroadcastChannel" in window &&
      "serviceWorker" in navigator &&
      "locks" in navigator &&
      window.crypto &&
      crypto.subtle &&
      "at" in Array.prototype &&
      "CSSLayerBlockRule" in window;
    if (!fits) show("too-old");
  }
  check();
})();
