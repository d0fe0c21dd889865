// `[1, 2]` is answered with `{"sum": 3}`. Bodies are Buffers, whatever their type. An array of a number and a value is status and body.
exports.handler = async (context, event) => {
  let numbers
  try {
    numbers = JSON.parse(event.body)
  } catch (error) {
    return [400, { error: error.message }]
  }
  return { sum: numbers.reduce((sum, number) => sum + number, 0) }
}
