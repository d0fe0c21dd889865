Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 700)

exports.initContext = async (context) => {
  await new Promise((resolve) => setTimeout(resolve, 300))
  context.userData.ready = 'ready'
}

exports.handler = (context, event) => context.callback(context.userData.ready)
