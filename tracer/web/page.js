// Keys go to the terminal without a click first, also after the window was left.
function listen() {
  document.querySelector(".xterm-helper-textarea")?.focus();
}
window.addEventListener("load", listen);
window.addEventListener("focus", listen);
