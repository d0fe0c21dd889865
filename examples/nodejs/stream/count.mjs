// An ES module. A generator is streamed: each item reaches the client when it is yielded. When the client leaves, the
// signal is aborted, and the generator ends at its next `yield`.
import { setTimeout } from 'node:timers/promises'

export async function * handler (context, event) {
  for (let number = 1; number <= 5; number++) {
    yield `${number}\n`
    await setTimeout(200, undefined, { signal: context.signal })
  }
}
