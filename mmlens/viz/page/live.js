// A view in a notebook that answers its kernel: what is chosen there are traits here, and the other way round.
export default {
  render({model, el}) {
    const names = ["array", "layer", "head", "token", "item", "run", "selected"];
    el.innerHTML = model.get("piece");
    const host = el.querySelector(".mmlens-view");
    host.id = "mmlens-live-" + Math.random().toString(36).slice(2);
    const begin = () => {
      if (!host.isConnected) return requestAnimationFrame(begin);
      viewer(host.id);
      let ours;
      const tell = seen => {
        ours = JSON.stringify(seen);
        for (const name of names) model.set(name, seen[name]);
        model.save_changes();
      };
      tell(host.mmlens.seen());
      host.addEventListener("mmlens-change", event => tell(event.detail));
      for (const name of names) model.on(`change:${name}`, () => {
        const values = Object.fromEntries(names.map(key => [key, model.get(key)]));
        if (JSON.stringify(values) !== ours) host.mmlens.set(values);
      });
    };
    begin();
  },
};
