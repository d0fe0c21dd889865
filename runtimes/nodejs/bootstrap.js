// Starts the shim embedded in the processor: the text of this file is node's argument -e, descriptor 4 has the shim,
// and is opened anew because its place in the file is shared.
// As a file the shim would be looked up by its real path, which an anonymous file does not have. Nothing of -e may show:
// no built-in modules or names of ours as globals, no options that a forked process would inherit.
{
  const Module = require('module')
  const keep = ['process', 'console', ...(parseInt(process.versions.node) < 19 ? [] : ['crypto'])]
  for (const name of Module.builtinModules) {
    const own = Object.getOwnPropertyDescriptor(globalThis, name)
    if (own && own.get && !keep.includes(name)) delete globalThis[name]
  }
  for (const name of ['require', 'module', 'exports', '__filename', '__dirname']) delete globalThis[name]
  const shim = new Module('.')
  shim.filename = '/opt/nuclio/wrapper.js'
  shim.paths = Module._nodeModulePaths('/opt/nuclio')
  process.mainModule = shim
  process.argv.splice(1, 0, shim.filename)
  process.execArgv = []
  shim._compile(shim.require('fs').readFileSync('/proc/self/fd/4', 'utf8'), shim.filename)
  shim.loaded = true
}
